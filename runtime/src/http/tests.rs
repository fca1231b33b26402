use std::time::Duration;

use prometheus::IntCounter;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::*;

struct Served {
    address: String,
    health: Health,
    shutdown: Shutdown,
    tasks: JoinSet<Result<(), HttpError>>,
}

async fn served() -> Served {
    let registry = Registry::new();
    let counter = IntCounter::new("oplog_test_entries_total", "Entries.").unwrap();
    counter.inc_by(7);
    registry.register(Box::new(counter)).unwrap();
    let health = Health::new(Duration::from_secs(60));
    let shutdown = Shutdown::manual();
    let listener = bind(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Router::new().route("/pause", axum::routing::post(|| async { "paused" }));
    let http = Http::new(registry, health.clone(), Arc::new(|| json!({"lag": 3})));
    let mut tasks = JoinSet::new();
    tasks.spawn(http.with_routes(routes).serve(listener, shutdown.clone()));
    Served {
        address,
        health,
        shutdown,
        tasks,
    }
}

async fn request(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn metrics_status_and_own_routes_are_served() {
    let served = served().await;
    let metrics = request(&served.address, "GET /metrics").await;
    assert!(
        metrics.contains("oplog_test_entries_total 7\n"),
        "{metrics}"
    );
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    let status = request(&served.address, "GET /status").await;
    assert!(status.ends_with(r#"{"lag":3}"#), "{status}");
    assert!(
        request(&served.address, "POST /pause")
            .await
            .ends_with("paused")
    );
    assert!(
        request(&served.address, "GET /nowhere")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn a_probe_returns_the_result_of_readyz() {
    let served = served().await;
    assert_eq!(probe(&served.address).await, Err("starting".to_owned()));
    served.health.set_ready(true, "");
    assert_eq!(probe(&served.address).await, Ok(()));
    assert!(
        request(&served.address, "GET /livez")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        request(&served.address, "GET /healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    served.health.set_ready(false, "lag is 3 h");
    assert_eq!(probe(&served.address).await, Err("lag is 3 h".to_owned()));
}

#[tokio::test]
async fn shutdown_ends_serving_and_then_a_probe_fails() {
    let mut served = served().await;
    served.shutdown.trigger();
    served.tasks.join_next().await.unwrap().unwrap().unwrap();
    let reason = probe(&served.address).await.unwrap_err();
    assert!(reason.contains(&served.address), "{reason}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_flag() {
    let served = served().await;
    let error = bind(&HttpAddress::At(served.address.clone()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--http"), "{error}");
    assert!(error.to_string().contains(&served.address), "{error}");
    assert!(bind(&HttpAddress::Off).await.unwrap().is_none());
}

#[test]
fn addresses_are_host_and_port_or_off() {
    assert_eq!("off".parse(), Ok(HttpAddress::Off));
    assert_eq!(
        "[::1]:80".parse(),
        Ok(HttpAddress::At("[::1]:80".to_owned()))
    );
    for bad in ["", "9464", ":9464", "host", "host:http"] {
        assert!(bad.parse::<HttpAddress>().is_err(), "{bad}");
    }
}
