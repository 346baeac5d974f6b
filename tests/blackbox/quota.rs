//! What happens when the database reaches its quota, and the way back.

use crate::support::{
    pb::etcdserverpb::{alarm_request::AlarmAction, *},
    *,
};
use tonic::Code;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const QUOTA: &str = "--quota-backend-bytes=16777216";

/// Puts until the server says that there is no space; returns how many were accepted.
async fn fill(client: &Client) -> i64 {
    for i in 0..1000 {
        let answer = client
            .try_put(put_request(format!("fill/{i:04}"), vec![b'v'; 200_000]))
            .await;
        if let Err(status) = answer {
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
            return i;
        }
    }
    panic!("two hundred megabytes fit into a quota of sixteen");
}

#[tokio::test]
async fn a_full_database_refuses_growth_and_nothing_else() {
    let server = Server::start(&[QUOTA]).await;
    let client = server.client();
    let lease = client.grant(1000).await;
    let accepted = fill(&client).await;
    // About 80 values of 200 kB fit. etcd counts its file, and only after a commit, so that a fast writer gets further.
    let fits = if is_reference() { 20..500 } else { 60..85 };
    assert!(fits.contains(&accepted), "{accepted} values of 200 kB fit into 16 MiB");
    let member = client.status().await.header.unwrap().member_id;
    let alarms = client.alarm(AlarmAction::Get, 0, AlarmType::None).await.alarms;
    assert_eq!(
        alarms,
        [AlarmMember {
            member_id: member,
            alarm: AlarmType::Nospace.into()
        }]
    );
    assert_eq!(
        client.status().await.errors,
        [format!("memberID:{member} alarm:NOSPACE ")]
    );
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 503);

    refused(
        client.try_put(put_request("small", "v")).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    refused(
        client.try_txn(txn_of(vec![put_op("small", "v")])).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    refused(client.try_grant(0, 100).await, Code::ResourceExhausted, NO_SPACE);

    assert!(client.get("fill/0000").await.is_some(), "reads go on");
    assert!(client.txn(txn_of(vec![get_op("fill/0000")])).await.succeeded);
    client.txn(txn_of(vec![delete_op("fill/0001")])).await;
    client.delete("fill/0000").await;
    client.try_revoke(lease).await.unwrap();
    client.compact(client.revision().await).await;
    assert_eq!(client.keys("fill/").await.len() as i64, accepted - 2);
}

#[tokio::test]
async fn deleting_compacting_defragmenting_and_disarming_heals() {
    let server = Server::start(&[QUOTA]).await;
    let client = server.client();
    fill(&client).await;
    // The size counts what is committed, and a fast writer is ahead of that.
    eventually("a size that tells of what was written", || async {
        client.status().await.db_size > 12 << 20
    })
    .await;
    let full = client.status().await.db_size;
    let delete = DeleteRangeRequest {
        key: "fill/".into(),
        range_end: prefix_end("fill/"),
        prev_kv: false,
    };
    let deleted = client.try_delete(delete).await.unwrap();
    client.compact(revision(&deleted.header)).await;
    client
        .maintenance
        .clone()
        .defragment(DefragmentRequest {})
        .await
        .unwrap();
    eventually("a smaller database", || async {
        client.status().await.db_size < full / 2
    })
    .await;
    refused(
        client.try_put(put_request("k", "v")).await,
        Code::ResourceExhausted,
        NO_SPACE,
    );
    let member = client.status().await.header.unwrap().member_id;
    client.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await;
    client.put("k", "v").await;
    assert!(client.status().await.errors.is_empty());
    assert_eq!(http(&server.endpoint(), "GET", "/health").status, 200);
    assert!(fill(&client).await > 20, "there is room again");
}

#[tokio::test]
async fn disarming_without_making_room_raises_the_alarm_again() {
    let server = Server::start(&[QUOTA]).await;
    let client = server.client();
    fill(&client).await;
    let member = client.status().await.header.unwrap().member_id;
    client.alarm(AlarmAction::Deactivate, member, AlarmType::Nospace).await;
    let answer = client.try_put(put_request("again", vec![b'v'; 1_000_000])).await;
    refused(answer, Code::ResourceExhausted, NO_SPACE);
    alarm_is_raised(&client).await;
}
