//! Reads and writes.

use crate::FakeEtcd;
use crate::state::Range;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnOpRequest, PbTxnRequest,
    PbTxnRequestOp, PbTxnResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

#[async_trait]
impl PbKvService for FakeEtcd {
    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let asked = request.into_inner();
        let plain = PbRangeRequest {
            key: asked.key.clone(),
            range_end: asked.range_end.clone(),
            limit: asked.limit,
            revision: asked.revision,
            ..PbRangeRequest::default()
        };
        if asked != plain {
            return Err(Status::unimplemented("a fake etcd neither sorts nor filters"));
        }
        let answer = |revision, kvs: Vec<_>, count: usize| PbRangeResponse {
            header: self.header(revision),
            more: kvs.len() < count,
            kvs,
            count: i64::try_from(count).unwrap_or(i64::MAX),
        };
        let answered = self.answer(|state| {
            let range = Range { key: &asked.key, end: &asked.range_end };
            let found = state.range(&range, asked.revision)?;
            let limit = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
            let count = found.len();
            Ok(answer(state.revision, found.into_iter().take(limit).cloned().collect(), count))
        });
        answered.await.map(Response::new)
    }

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("a fake etcd answers ranges as a whole"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let put = PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestPut(request.into_inner())) };
        let txn = PbTxnRequest { success: vec![put], ..PbTxnRequest::default() };
        let revision = self.answer(|state| state.txn(&txn).map(|_| state.revision)).await?;
        Ok(Response::new(PbPutResponse { header: self.header(revision), prev_kv: None }))
    }

    async fn delete_range(&self, _: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        Err(Status::unimplemented("a fake etcd deletes in transactions"))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let txn = request.into_inner();
        let (succeeded, revision) = self.answer(|state| Ok((state.txn(&txn)?, state.revision))).await?;
        Ok(Response::new(PbTxnResponse { header: self.header(revision), succeeded, responses: Vec::new() }))
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let at = request.into_inner().revision;
        let revision = self.answer(|state| {
            if at > state.revision {
                return Err(Status::out_of_range("etcdserver: mvcc: required revision is a future revision"));
            }
            if at <= state.compacted {
                return Err(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
            }
            state.compact(at);
            Ok(state.revision)
        });
        Ok(Response::new(PbCompactionResponse { header: self.header(revision.await?) }))
    }
}
