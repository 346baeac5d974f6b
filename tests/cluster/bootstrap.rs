//! How members that have no data find their cluster, and when they refuse to.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use super::dns;
use crate::{rig::Cluster, support::*};

/// What etcd 3.5 lacks: its discovery service is that of v2.
const DISCOVERY: &str = "a server that finds others through a v3 discovery service";
/// How etcore is told of a DNS server of our own; others ask that of the machine.
const RESOLVER: &str = "--resolv-conf, which is etcore's";

/// Tells a discovery service how many members a cluster has.
async fn want(service: &Client, token: &str, size: &str) {
    service.put(format!("/_etcd/registry/{token}/_config/size"), size).await;
}

fn discovery_flags(service: &Server, token: &str) -> Vec<String> {
    vec![
        format!("--discovery-endpoints={}", service.url()),
        format!("--discovery-token={token}"),
    ]
}

fn unborn(count: usize, flags: &[String]) -> Cluster {
    Cluster::unborn(count, &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn find_each_other(mut service: Server) {
    let registry = service.client();
    want(&registry, "token", "3").await;
    let flags = discovery_flags(&service, "token");
    let mut cluster = unborn(4, &flags);
    for node in &mut cluster.nodes[..2] {
        node.start(false);
    }
    let waiting = cluster.nodes[0].process.as_ref().unwrap();
    assert!(waiting.logged("waiting for peers from discovery service", PATIENCE));
    cluster.nodes[2].start(false);
    cluster.nodes[..3].iter().for_each(|node| node.wait_ready());
    cluster.leader().await;
    assert_eq!(registry.keys("/_etcd/registry/token/members/").await.len(), 3);
    cluster.nodes[0].client().put("k", "v").await;
    assert_eq!(cluster.nodes[2].client().get("k").await, Some(b"v".to_vec()));

    let said = cluster.nodes[3].start_refused();
    assert!(
        said.contains("failed to join discovery cluster (discovery: cluster is full"),
        "{said}"
    );

    // The service is of no more use.
    service.kill_9();
    cluster.nodes[1].kill_9();
    cluster.nodes[1].start(true);
    cluster.leader().await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_through_a_discovery_service() {
    if is_3_5() {
        return skipped(DISCOVERY);
    }
    find_each_other(Server::start(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_serves_as_discovery_service() {
    match tools::reference_etcd() {
        _ if is_3_5() => skipped(DISCOVERY),
        Some(etcd) => find_each_other(Server::start_binary(&etcd, &[]).await).await,
        None => skipped("etcd"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_that_cannot_end_well_is_refused() {
    if is_3_5() {
        return skipped(DISCOVERY);
    }
    let service = Server::start(&[]).await;
    let registry = service.client();
    let said = unborn(1, &discovery_flags(&service, "nobody")).nodes[0].start_refused();
    assert!(
        said.contains("failed to join discovery cluster (discovery: size key not found"),
        "{said}"
    );

    want(&registry, "bad", "many").await;
    let said = unborn(1, &discovery_flags(&service, "bad")).nodes[0].start_refused();
    assert!(said.contains("discovery: size key is bad"), "{said}");

    want(&registry, "same", "2").await;
    let members = "/_etcd/registry/same/members";
    registry.put(format!("{members}/1"), "m0=http://127.0.0.1:1").await;
    let said = unborn(1, &discovery_flags(&service, "same")).nodes[0].start_refused();
    assert!(said.contains("discovery: found duplicate name"), "{said}");

    want(&registry, "twice", "2").await;
    let mut cluster = unborn(1, &discovery_flags(&service, "twice"));
    let taken = format!("other={}", cluster.nodes[0].peer_url());
    registry.put("/_etcd/registry/twice/members/1", taken.as_str()).await;
    let said = cluster.nodes[0].start_refused();
    assert!(
        said.contains("discovery cluster") && said.contains("has duplicate url"),
        "{said}"
    );

    // One that waits for others can be told to stop.
    want(&registry, "alone", "2").await;
    let mut cluster = unborn(1, &discovery_flags(&service, "alone"));
    cluster.nodes[0].start(false);
    let mut process = cluster.nodes[0].process.take().unwrap();
    assert!(process.logged("waiting for peers from discovery service", PATIENCE));
    process.signal("TERM");
    assert!(process.wait(PATIENCE).is_some(), "{}", process.log_tail());
}

/// Two members and a DNS server that knows them.
fn by_srv(domain: &str, service: &str, cut: bool) -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let conf = dir.path().join("resolv.conf");
    let mut cluster = Cluster::unborn(2, &[]);
    let targets = cluster.nodes.iter().map(|node| {
        let port = node
            .peer_url()
            .rsplit_once(':')
            .expect("a port")
            .1
            .parse()
            .expect("a number");
        ("127.0.0.1".to_owned(), port)
    });
    let records = vec![(format!("_{service}._tcp.{domain}"), targets.collect())];
    std::fs::write(&conf, dns::serve(records, cut)).expect("a new file");
    for node in &mut cluster.nodes {
        node.flags.push(format!("--resolv-conf={}", conf.display()));
        node.flags.push(format!("--discovery-srv={domain}"));
    }
    (cluster, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_by_srv_records() {
    if is_reference() {
        return skipped(RESOLVER);
    }
    for cut in [false, true] {
        let (mut cluster, _dir) = by_srv("etcd.example", "etcd-server", cut);
        cluster.nodes.iter_mut().for_each(|node| node.start(false));
        cluster.nodes.iter().for_each(|node| node.wait_ready());
        cluster.leader().await;
        cluster.nodes[0].client().put("k", "v").await;
        assert_eq!(cluster.nodes[1].client().get("k").await, Some(b"v".to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_that_do_not_fit_are_refused_with_etcds_texts() {
    if is_reference() {
        return skipped(RESOLVER);
    }
    // The records are those of a service with a suffix.
    let (mut cluster, _dir) = by_srv("etcd.example", "etcd-server-east", false);
    let said = cluster.nodes[0].start_refused();
    let want = "error setting up initial cluster: error querying DNS SRV records for _etcd-server-ssl lookup \
                _etcd-server-ssl._tcp.etcd.example on 127.0.0.1:";
    assert!(said.contains(want) && said.contains("no such host"), "{said}");

    let mut stranger = Cluster::unborn(1, &[]);
    stranger.nodes[0].flags = cluster.nodes[0].flags.clone();
    stranger.nodes[0].flags.push("--discovery-srv-name=east".into());
    let said = stranger.nodes[0].start_refused();
    assert!(said.contains("cannot find local etcd member"), "{said}");

    for node in &mut cluster.nodes {
        node.flags.push("--discovery-srv-name=east".into());
        node.start(false);
    }
    cluster.nodes.iter().for_each(|node| node.wait_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_data_is_gone_does_not_vote_again_under_its_id() {
    let mut cluster = Cluster::start(3, &[]).await;
    eventually("all members have told their client URLs", || async {
        let list = cluster.nodes[1].client().members().await;
        list.iter().all(|member| !member.client_ur_ls.is_empty())
    })
    .await;
    cluster.nodes[0].kill_9();
    cluster.nodes[0].wipe();
    let said = cluster.nodes[0].start_refused();
    assert!(said.contains("has already been bootstrapped"), "{said}");
    assert!(
        is_reference() || said.contains("etcdctl member remove"),
        "it says what to do: {said}"
    );
    if is_reference() {
        // It starts one that says that it joins, against the same promise.
        return;
    }
    cluster.nodes[0].flags.push("--initial-cluster-state=existing".into());
    let said = cluster.nodes[0].start_refused();
    assert!(said.contains("has already been bootstrapped"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_contradict_each_other_are_refused_at_the_first_start_only() {
    let mut cluster = Cluster::unborn(1, &[]);
    let own = cluster.list();
    cluster.name_members("other=http://127.0.0.1:1");
    let said = cluster.nodes[0].start_refused();
    assert!(
        said.contains("couldn't find local name \\\"m0\\\" in the initial cluster configuration")
            || said.contains("couldn't find local name \"m0\" in the initial cluster configuration"),
        "{said}"
    );
    cluster.name_members("m0=http://127.0.0.1:1");
    let said = cluster.nodes[0].start_refused();
    assert!(
        said.contains("--initial-cluster has m0=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls="),
        "{said}"
    );
    cluster.name_members(&format!("{own},m1={}", cluster.nodes[0].peer_url()));
    let said = cluster.nodes[0].start_refused();
    assert!(said.contains("has duplicate url"), "{said}");
    cluster.name_members(&own);
    cluster.nodes[0].start(true);
    cluster.nodes[0].kill_9();
    // It knows itself now.
    cluster.name_members("m0=http://127.0.0.1:1");
    cluster.nodes[0].start(true);
}

/// A member of a cluster that knows two members and tells this version; its peer URL.
fn fake_member(joiner_url: &str, version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let members = format!(
        r#"[{{"id":10,"peerURLs":["{url}"],"name":"old","clientURLs":["{url}"]}},{{"id":11,"peerURLs":["{joiner_url}"]}}]"#
    );
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let body = match request[..read].starts_with(b"GET /version ") {
                true => format!(r#"{{"etcdserver":"{version}","etcdcluster":"{version}"}}"#),
                false => members.clone(),
            };
            let head = "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: 7\r\nConnection: close\r\n";
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_a_version_that_is_not_kept_to_is_not_joined() {
    for (version, why) in [
        ("3.7.0", "member a says that the cluster is at version 3.7.0"),
        ("2.3.0", "member a says that the cluster is at version 2.3.0"),
        ("not_decided", "no other member told its version in time"),
    ] {
        let mut cluster = Cluster::unborn(0, &[]);
        let fresh = cluster.prepare(&[]);
        let node = &mut cluster.nodes[fresh];
        let own = node.peer_url();
        let list = format!("{}={own},old={}", node.name, fake_member(&own, version));
        node.name_in(&list);
        let said = node.start_refused();
        assert!(said.contains("incompatible with current running cluster"), "{said}");
        assert!(is_reference() || said.contains(why), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_joined_only_by_who_knows_all_of_it() {
    let mut cluster = Cluster::start(1, &[]).await;
    let list = cluster.list();
    let fresh = cluster.prepare(&[]);
    let node = &mut cluster.nodes[fresh];
    let own = format!("{}={}", node.name, node.peer_url());
    let mut join = |list: &str| {
        node.name_in(list);
        node.start_refused()
    };
    let said = join(&format!("{own},m9=http://127.0.0.1:1"));
    assert!(
        said.contains(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
        ),
        "{said}"
    );
    let said = join(&format!("{list},{own}"));
    assert!(
        said.contains("error validating peerURLs {ClusterID:") && said.contains("member count is unequal"),
        "{said}"
    );
    // As many as there are, but others.
    let said = join(&own);
    assert!(said.contains("cannot fetch cluster info from peer urls"), "{said}");
    let said = join(&format!("{list},m0=http://127.0.0.1:2"));
    assert!(said.contains("couldn't find local name"), "{said}");
}
