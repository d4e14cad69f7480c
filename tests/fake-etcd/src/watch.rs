//! Watches: one stream may carry several.

use crate::state::Range;
use crate::{FakeEtcd, Stall};
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Answers that wait for a slow client.
const ANSWERS_WAITING_MAX: usize = 16;

type Answers = mpsc::Sender<Result<PbWatchResponse, Status>>;

struct Watch {
    id: i64,
    key: Vec<u8>,
    end: Vec<u8>,
    /// The first revision that was not brought yet.
    next: i64,
}

/// The client is gone.
struct Gone;

#[async_trait]
impl PbWatchService for FakeEtcd {
    type WatchStream = BoxStream<'static, Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.pass(&[Stall::BeforeWork]).await;
        let (sender, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        let (etcd, requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let left = sender.clone();
            tokio::select! {
                _ = etcd.bring(requests, sender) => {}
                () = left.closed() => {}
            }
        });
        let stream =
            futures_util::stream::unfold(answers, |mut answers| async { Some((answers.recv().await?, answers)) });
        Ok(Response::new(stream.boxed()))
    }
}

impl FakeEtcd {
    async fn bring(&self, mut requests: Streaming<PbWatchRequest>, answers: Answers) -> Result<(), Gone> {
        let mut news = self.shared.news.subscribe();
        let mut watches: Vec<Watch> = Vec::new();
        let mut last_id = 0;
        loop {
            tokio::select! {
                asked = requests.message() => {
                    let asked = asked.ok().flatten().ok_or(Gone)?;
                    match asked.request_union {
                        Some(PbWatchRequestUnion::CreateRequest(create)) => {
                            last_id += 1;
                            let (revision, next) = {
                                let revision = self.shared.state.lock().revision;
                                (revision, if create.start_revision > 0 { create.start_revision } else { revision + 1 })
                            };
                            let watch = Watch { id: last_id, key: create.key, end: create.range_end, next };
                            self.say(&answers, PbWatchResponse { created: true, ..self.about(&watch, revision) }).await?;
                            watches.push(watch);
                        }
                        Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                            if let Some(at) = watches.iter().position(|watch| watch.id == cancel.watch_id) {
                                let (watch, revision) = (watches.remove(at), self.revision());
                                let answer = PbWatchResponse { canceled: true, ..self.about(&watch, revision) };
                                self.say(&answers, answer).await?;
                            }
                        }
                        Some(PbWatchRequestUnion::ProgressRequest(_)) | None => {
                            let _ = answers.send(Err(Status::unimplemented("a fake etcd tells no progress"))).await;
                            return Err(Gone);
                        }
                    }
                }
                _ = news.changed() => {}
            }
            self.catch_up(&mut watches, &answers).await?;
        }
    }

    async fn catch_up(&self, watches: &mut Vec<Watch>, answers: &Answers) -> Result<(), Gone> {
        for mut watch in std::mem::take(watches) {
            let (events, revision, compacted) = {
                let state = self.shared.state.lock();
                let range = Range { key: &watch.key, end: &watch.end };
                (state.changes(&range, watch.next), state.revision, state.compacted)
            };
            let answer = self.about(&watch, revision);
            // A revision that is compacted can no longer be watched from; one that was being brought goes on.
            if watch.next < compacted {
                self.say(answers, PbWatchResponse { canceled: true, compact_revision: compacted, ..answer }).await?;
                continue;
            }
            watch.next = watch.next.max(revision + 1);
            if !events.is_empty() {
                self.say(answers, PbWatchResponse { events, ..answer }).await?;
            }
            watches.push(watch);
        }
        Ok(())
    }

    fn about(&self, watch: &Watch, revision: i64) -> PbWatchResponse {
        PbWatchResponse { header: self.header(revision), watch_id: watch.id, ..PbWatchResponse::default() }
    }

    async fn say(&self, answers: &Answers, answer: PbWatchResponse) -> Result<(), Gone> {
        self.pass(&[Stall::BeforeWork, Stall::BeforeAnswer]).await;
        answers.send(Ok(answer)).await.map_err(|_| Gone)
    }
}
