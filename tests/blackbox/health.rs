//! The standard gRPC health service.

use crate::support::{
    pb::health::{HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus},
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
