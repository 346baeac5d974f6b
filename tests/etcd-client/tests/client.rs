//! What a Rust program does with the client `etcd-client`.

use etcd_client::*;
use etcore_etcd_client_tests::Server;
use std::time::Duration;

#[tokio::test]
async fn put_get_and_delete() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    client.put("a", "1", None).await?;
    let replaced = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(replaced.prev_key().unwrap().value_str()?, "1");
    let got = client.get("a", None).await?;
    assert_eq!((got.count(), got.kvs()[0].value_str()?, got.kvs()[0].version()), (1, "2", 2));
    let deleted = client.delete("a", Some(DeleteOptions::new().with_prev_key())).await?;
    assert_eq!((deleted.deleted(), deleted.prev_kvs()[0].value_str()?), (1, "2"));
    assert!(client.get("a", None).await?.kvs().is_empty());
    Ok(())
}

#[tokio::test]
async fn ranges_with_options() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    for key in ["a1", "a2", "a3", "b"] {
        client.put(key, key, None).await?;
    }
    let sorted = GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(2);
    let got = client.get("a", Some(sorted)).await?;
    assert_eq!((got.kvs()[0].key_str()?, got.kvs().len(), got.more(), got.count()), ("a3", 2, true, 3));
    let counted = client.get("", Some(GetOptions::new().with_all_keys().with_count_only())).await?;
    assert_eq!((counted.count(), counted.kvs().len()), (4, 0));
    let past = client.get("", Some(GetOptions::new().with_all_keys().with_revision(3).with_keys_only())).await?;
    assert_eq!(past.kvs().len(), 2);
    Ok(())
}

#[tokio::test]
async fn transactions() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    let create = Txn::new()
        .when([Compare::create_revision("k", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("k", "1", None), TxnOp::get("k", None)])
        .or_else([TxnOp::delete("k", None)]);
    let first = client.txn(create.clone()).await?;
    assert!(first.succeeded());
    assert_eq!(first.op_responses().len(), 2);
    assert!(!client.txn(create).await?.succeeded());
    assert!(client.get("k", None).await?.kvs().is_empty());
    Ok(())
}

#[tokio::test]
async fn errors_keep_their_text() {
    let (_server, mut client) = Server::start().await;
    let error = client.get("k", Some(GetOptions::new().with_revision(99))).await.unwrap_err();
    assert!(error.to_string().contains("etcdserver: mvcc: required revision is a future revision"), "{error}");
    let error = client.lease_revoke(5).await.unwrap_err();
    assert!(error.to_string().contains("etcdserver: requested lease not found"), "{error}");
}

#[tokio::test]
async fn watching_with_history_and_cancelling() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    client.put("k", "1", None).await?;
    let options = WatchOptions::new().with_start_revision(2).with_prev_key();
    let mut stream = client.watch("k", Some(options)).await?;
    client.put("k", "2", None).await?;
    client.delete("k", None).await?;
    let mut events = Vec::new();
    while events.len() < 3 {
        let response = next(&mut stream).await?;
        events.extend(response.events().iter().map(|event| (event.event_type(), event.prev_kv().is_some())));
    }
    assert_eq!(events, [(EventType::Put, false), (EventType::Put, true), (EventType::Delete, true)]);
    stream.cancel(0).await?;
    assert!(next(&mut stream).await?.canceled());
    Ok(())
}

#[tokio::test]
async fn asking_for_progress() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    let mut stream = client.watch("k", None).await?;
    client.put("other", "v", None).await?;
    stream.request_progress().await?;
    assert!(next(&mut stream).await?.created());
    let progress = next(&mut stream).await?;
    assert_eq!((progress.watch_id(), progress.header().unwrap().revision()), (-1, 2));
    Ok(())
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Error> {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("a response in time")?;
    Ok(message.expect("the stream is open"))
}

#[tokio::test]
async fn leases_from_grant_to_revoke() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    let id = client.lease_grant(1000, None).await?.id();
    client.put("k", "v", Some(PutOptions::new().with_lease(id))).await?;
    let (mut keeper, mut stream) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    assert_eq!(stream.message().await?.unwrap().ttl(), 1000);
    let left = client.lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    assert_eq!((left.granted_ttl(), left.keys()), (1000, [b"k".to_vec()].as_slice()));
    assert_eq!(client.leases().await?.leases()[0].id(), id);
    client.lease_revoke(id).await?;
    assert!(client.get("k", None).await?.kvs().is_empty());
    Ok(())
}

#[tokio::test]
async fn compaction() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    for value in ["2", "3", "4"] {
        client.put("k", value, None).await?;
    }
    client.compact(3, Some(CompactionOptions::new().with_physical())).await?;
    let error = client.get("k", Some(GetOptions::new().with_revision(2))).await.unwrap_err();
    assert!(error.to_string().contains("etcdserver: mvcc: required revision has been compacted"), "{error}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the lock service, which etcore does not have yet; run with --ignored against etcd"]
async fn locks_exclude_each_other() -> Result<(), Error> {
    let (server, mut client) = Server::start().await;
    let held = client.lock("mutex", None).await?;
    let mut other = server.connect().await;
    let waiting = tokio::spawn(async move { other.lock("mutex", None).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "the lock is held");
    client.unlock(held.key()).await?;
    let next = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the lock is free").unwrap()?;
    assert_ne!(next.key(), held.key());
    Ok(())
}

#[tokio::test]
#[ignore = "needs the election service, which etcore does not have yet; run with --ignored against etcd"]
async fn elections_have_one_leader() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    let lease = client.lease_grant(1000, None).await?.id();
    let won = client.campaign("post", "me", lease).await?;
    let leader = client.leader("post").await?;
    assert_eq!(leader.kv().unwrap().value_str()?, "me");
    let key = won.leader().unwrap().clone();
    client.proclaim("still me", Some(ProclaimOptions::new().with_leader(key.clone()))).await?;
    assert_eq!(client.leader("post").await?.kv().unwrap().value_str()?, "still me");
    client.resign(Some(ResignOptions::new().with_leader(key))).await?;
    assert!(client.leader("post").await.unwrap_err().to_string().contains("election: no leader"));
    Ok(())
}

#[tokio::test]
async fn maintenance() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    client.put("k", "v", None).await?;
    let status = client.status().await?;
    assert!(status.version().starts_with("3."));
    assert_eq!(status.leader(), status.header().unwrap().member_id());
    assert_eq!(client.hash_kv(0).await?.hash(), client.hash_kv(2).await?.hash());
    client.defragment().await?;
    assert!(client.alarm(AlarmAction::Get, AlarmType::None, None).await?.alarms().is_empty());
    let mut snapshot = client.snapshot().await?;
    let mut size = 0;
    while let Some(chunk) = snapshot.message().await? {
        size += chunk.blob().len();
    }
    assert!(size > 4096 && size % 512 == 32, "a bolt file and a checksum: {size}");
    Ok(())
}

#[tokio::test]
async fn the_member_list() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    let list = client.member_list().await?;
    let [member] = list.members() else { panic!("one member: {list:?}") };
    assert_eq!((member.name(), member.id()), ("default", list.header().unwrap().member_id()));
    Ok(())
}

#[tokio::test]
#[ignore = "needs users and roles, which etcore does not have yet; run with --ignored against etcd"]
async fn users_and_roles() -> Result<(), Error> {
    let (_server, mut client) = Server::start().await;
    client.role_add("reader").await?;
    client.role_grant_permission("reader", Permission::read("public/").with_prefix()).await?;
    client.user_add("alice", "secret", None).await?;
    client.user_grant_role("alice", "reader").await?;
    assert_eq!(client.user_get("alice").await?.roles(), ["reader"]);
    assert_eq!(client.role_list().await?.roles(), ["reader"]);
    assert_eq!(client.user_list().await?.users(), ["alice"]);
    client.user_revoke_role("alice", "reader").await?;
    client.user_delete("alice").await?;
    client.role_delete("reader").await?;
    assert!(client.user_list().await?.users().is_empty());
    Ok(())
}
