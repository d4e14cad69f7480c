//! A process that is short of files. Alone in its own program: the limit is the whole process's.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use cellway_proxy::{Pool, PoolLimits, RequestBody};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

const AT_ONCE: usize = 16;

/// Answers every request, after a moment, on as many connections as come.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = [0; 1024];
                while tcp.read(&mut read).await.is_ok_and(|count| count > 0) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    address
}

async fn ask(pool: &Pool, app: SocketAddr) -> Result<StatusCode, String> {
    let request = Request::builder().uri("/").header("host", "a").body(RequestBody::empty()).unwrap();
    let answer = pool.send(app, request).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    answer.into_body().collect().await.unwrap();
    Ok(status)
}

#[tokio::test(flavor = "current_thread")]
async fn idle_connections_give_way_where_there_are_no_more_files() {
    LocalSet::new()
        .run_until(async {
            let (busy, other) = (app().await, app().await);
            let pool = Pool::new(PoolLimits::default());
            let asking: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    let pool = pool.clone();
                    spawn_local(async move { ask(&pool, busy).await })
                })
                .collect();
            for asked in asking {
                assert_eq!(asked.await.unwrap(), Ok(StatusCode::OK));
            }
            assert_eq!(pool.open_connections(busy), AT_ONCE);

            // The files that are open stay so; from now on there is none beyond them.
            let before = getrlimit(Resource::Nofile);
            let mut taken = vec![File::open("/dev/null").unwrap()];
            let lowered = Rlimit { current: Some(std::os::fd::AsRawFd::as_raw_fd(&taken[0]) as u64 + 1), ..before };
            setrlimit(Resource::Nofile, lowered).unwrap();
            while let Ok(file) = File::open("/dev/null") {
                taken.push(file);
            }
            let came = ask(&pool, other).await;
            setrlimit(Resource::Nofile, before).unwrap();
            assert_eq!(came, Ok(StatusCode::OK));
            assert_eq!(pool.open_connections(busy), 0, "idle ones are closed");
        })
        .await;
}
