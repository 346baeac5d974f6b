//! The standard gRPC health service, and what a service manager is told.

use crate::support::{
    pb::{
        etcdserverpb::DefragmentRequest,
        health::{HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus},
    },
    *,
};
use tonic::Code;

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

#[tokio::test]
async fn the_whole_server_is_serving() {
    let (_server, client) = fresh().await;
    let answer = client.health.clone().check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_service_manager_is_told_that_the_server_is_ready() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).expect("a new socket");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a time-out");
    let socket = socket.to_str().expect("the path is text").to_owned();
    let server = Server::start_in(&[("NOTIFY_SOCKET", socket)], &[]).await;
    let mut told = [0; 64];
    let len = manager.recv(&mut told).expect("the server tells it");
    assert_eq!(&told[..len], b"READY=1");
    server.client().put("a", "1").await;
}

#[tokio::test]
async fn an_unregistered_name_is_not_found() {
    let (_server, client) = fresh().await;
    for name in ["nobody", "etcdserverpb.KV"] {
        refused(
            client.health.clone().check(of(name)).await,
            Code::NotFound,
            "unknown service",
        );
    }
}

#[tokio::test]
async fn a_health_watch_tells_the_status_at_once() {
    let (_server, client) = fresh().await;
    for (name, expected) in [("", ServingStatus::Serving), ("nobody", ServingStatus::ServiceUnknown)] {
        let mut stream = client.health.clone().watch(of(name)).await.unwrap().into_inner();
        let first = within("the first status", stream.message()).await.unwrap().unwrap();
        assert_eq!(first.status(), expected);
    }
}

#[tokio::test]
async fn a_health_list_names_the_whole_server() {
    let (_server, client) = fresh().await;
    let statuses = client
        .health
        .clone()
        .list(HealthListRequest {})
        .await
        .unwrap()
        .into_inner()
        .statuses;
    assert_eq!(statuses[""].status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_defragmentation_is_told_to_health_watches_where_the_gate_is_on() {
    let server = Server::start(&["--experimental-stop-grpc-service-on-defrag=true"]).await;
    let client = server.client();
    let mut stream = client.health.clone().watch(of("")).await.unwrap().into_inner();
    let mut maintenance = client.maintenance.clone();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let told = within("a status", stream.message()).await.unwrap().unwrap();
        seen.push(told.status());
        if seen.len() == 1 {
            maintenance.defragment(DefragmentRequest {}).await.unwrap();
        }
    }
    use ServingStatus::{NotServing, Serving};
    assert_eq!(seen, [Serving, NotServing, Serving]);
    let answer = client.health.clone().check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), Serving);
}
