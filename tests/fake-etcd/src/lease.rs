//! Leases. The service is put together here: the client's own server traits leave one of its messages unnamed.

use crate::FakeEtcd;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbResponseHeader,
};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use std::convert::Infallible;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// The service `etcdserverpb.Lease`.
#[derive(Clone)]
pub(crate) struct LeaseServer(pub(crate) FakeEtcd);

#[derive(Clone, PartialEq, prost::Message)]
struct KeepAlive {
    #[prost(int64, tag = "1")]
    id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptAlive {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

impl NamedService for LeaseServer {
    const NAME: &'static str = "etcdserverpb.Lease";
}

impl Service<http::Request<Body>> for LeaseServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let etcd = self.0.clone();
        async move {
            Ok(match request.uri().path() {
                "/etcdserverpb.Lease/LeaseGrant" => {
                    let grant = service_fn(move |asked| grant(etcd.clone(), asked));
                    Grpc::new(ProstCodec::default()).unary(grant, request).await
                }
                "/etcdserverpb.Lease/LeaseRevoke" => {
                    let revoke = service_fn(move |asked| revoke(etcd.clone(), asked));
                    Grpc::new(ProstCodec::default()).unary(revoke, request).await
                }
                "/etcdserverpb.Lease/LeaseKeepAlive" => {
                    let keep = service_fn(move |asked| keep_alive(etcd.clone(), asked));
                    Grpc::new(ProstCodec::default()).streaming(keep, request).await
                }
                _ => Status::unimplemented("a fake etcd does not tell about leases").into_http(),
            })
        }
        .boxed()
    }
}

async fn grant(etcd: FakeEtcd, asked: Request<PbLeaseGrantRequest>) -> Result<Response<PbLeaseGrantResponse>, Status> {
    let asked = asked.into_inner();
    if asked.id != 0 {
        return Err(Status::unimplemented("a fake etcd names leases itself"));
    }
    if asked.ttl <= 0 {
        return Err(Status::out_of_range("etcdserver: too small lease TTL"));
    }
    let (id, revision) = etcd.answer(|state| Ok((state.grant(asked.ttl, Instant::now()), state.revision))).await?;
    let header = etcd.header(revision);
    Ok(Response::new(PbLeaseGrantResponse { header, id, ttl: asked.ttl, error: String::new() }))
}

async fn revoke(
    etcd: FakeEtcd,
    asked: Request<PbLeaseRevokeRequest>,
) -> Result<Response<PbLeaseRevokeResponse>, Status> {
    let id = asked.into_inner().id;
    let revision = etcd.answer(|state| state.revoke(id).map(|()| state.revision)).await?;
    Ok(Response::new(PbLeaseRevokeResponse { header: etcd.header(revision) }))
}

async fn keep_alive(
    etcd: FakeEtcd,
    asked: Request<Streaming<KeepAlive>>,
) -> Result<Response<BoxStream<'static, Result<KeptAlive, Status>>>, Status> {
    let kept = asked.into_inner().then(move |asked| {
        let etcd = etcd.clone();
        async move {
            let id = asked?.id;
            let kept = etcd.answer(|state| Ok((state.keep_alive(id, Instant::now()), state.revision))).await;
            let (ttl, revision) = kept?;
            Ok(KeptAlive { header: etcd.header(revision), id, ttl })
        }
    });
    Ok(Response::new(kept.boxed()))
}
