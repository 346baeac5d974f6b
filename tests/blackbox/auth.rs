//! Users, roles, permissions and tokens.

use crate::support::{
    pb::{
        authpb::{Permission, UserAddOptions, permission::Type},
        etcdserverpb::*,
    },
    *,
};
use tonic::{Code, Request, Status};

const DENIED: &str = "etcdserver: permission denied";

/// Passwords hashed at the least cost, so that tests are quick.
async fn start() -> (Server, Client) {
    let server = Server::start(&["--bcrypt-cost=4"]).await;
    let client = server.client();
    (server, client)
}

async fn add_user(client: &Client, name: &str, roles: &[&str]) {
    let request = AuthUserAddRequest {
        name: name.into(),
        password: "secret".into(),
        ..Default::default()
    };
    client.auth.clone().user_add(request).await.unwrap();
    for role in roles {
        let request = AuthUserGrantRoleRequest {
            user: name.into(),
            role: role.to_string(),
        };
        client.auth.clone().user_grant_role(request).await.unwrap();
    }
}

async fn add_role(client: &Client, name: &str, permissions: &[(Type, &str, &[u8])]) {
    client
        .auth
        .clone()
        .role_add(AuthRoleAddRequest { name: name.into() })
        .await
        .unwrap();
    for (kind, key, range_end) in permissions {
        let perm = Permission {
            perm_type: (*kind).into(),
            key: (*key).into(),
            range_end: range_end.to_vec(),
        };
        let request = AuthRoleGrantPermissionRequest {
            name: name.into(),
            perm: Some(perm),
        };
        client.auth.clone().role_grant_permission(request).await.unwrap();
    }
}

async fn token(client: &Client, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest {
        name: name.into(),
        password: password.into(),
    };
    Ok(client.auth.clone().authenticate(request).await?.into_inner().token)
}

fn signed<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("token", token.parse().expect("a token is ASCII"));
    request
}

/// Auth on, with root, and alice who reads `pub/` and reads and writes `own`.
async fn guarded() -> (Server, Client) {
    let (server, client) = start().await;
    let end = prefix_end("pub/");
    add_role(
        &client,
        "alice",
        &[(Type::Read, "pub/", &end), (Type::Readwrite, "own", b"")],
    )
    .await;
    client
        .auth
        .clone()
        .role_add(AuthRoleAddRequest { name: "root".into() })
        .await
        .unwrap();
    add_user(&client, "root", &["root"]).await;
    add_user(&client, "alice", &["alice"]).await;
    client.put("pub/1", "v").await;
    client.put("secret", "v").await;
    client.auth.clone().auth_enable(AuthEnableRequest {}).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn enabling_needs_root_with_the_role_root() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = start().await;
    let mut auth = client.auth.clone();
    let answer = auth.auth_enable(AuthEnableRequest {}).await;
    refused(answer, Code::FailedPrecondition, "etcdserver: root user does not exist");
    add_user(&client, "root", &[]).await;
    let answer = auth.auth_enable(AuthEnableRequest {}).await;
    refused(
        answer,
        Code::FailedPrecondition,
        "etcdserver: root user does not have root role",
    );
    auth.role_add(AuthRoleAddRequest { name: "root".into() }).await.unwrap();
    let request = AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(request).await.unwrap();
    assert!(
        !auth
            .auth_status(AuthStatusRequest {})
            .await
            .unwrap()
            .into_inner()
            .enabled
    );
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    let root = token(&client, "root", "secret").await.unwrap();
    assert!(
        auth.auth_status(signed(&root, AuthStatusRequest {}))
            .await
            .unwrap()
            .into_inner()
            .enabled
    );
    auth.auth_disable(signed(&root, AuthDisableRequest {})).await.unwrap();
    client.put("k", "free again").await;
}

#[tokio::test]
async fn authenticating_needs_auth_and_the_right_password() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = start().await;
    let answer = token(&client, "root", "secret").await;
    refused(
        answer,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    let (_server, client) = guarded().await;
    let text = "etcdserver: authentication failed, invalid user ID or password";
    refused(token(&client, "alice", "wrong").await, Code::InvalidArgument, text);
    refused(token(&client, "nobody", "secret").await, Code::InvalidArgument, text);
    assert!(!token(&client, "alice", "secret").await.unwrap().is_empty());
}

#[tokio::test]
async fn calls_without_or_with_a_bad_token_are_refused() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    refused(
        client.try_range(key_range("own")).await,
        Code::InvalidArgument,
        "etcdserver: user name is empty",
    );
    let answer = client.kv.clone().range(signed("nonsense", key_range("own"))).await;
    refused(answer, Code::Unauthenticated, "etcdserver: invalid auth token");
}

#[tokio::test]
async fn a_user_may_do_what_the_roles_say_and_no_more() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    let alice = token(&client, "alice", "secret").await.unwrap();
    let mut kv = client.kv.clone();
    kv.put(signed(&alice, put_request("own", "v"))).await.unwrap();
    assert_eq!(
        kv.range(signed(&alice, key_range("own")))
            .await
            .unwrap()
            .into_inner()
            .count,
        1
    );
    assert_eq!(
        kv.range(signed(&alice, prefix_range("pub/")))
            .await
            .unwrap()
            .into_inner()
            .count,
        1
    );
    for range in [
        key_range("secret"),
        all_range(),
        range_between("pub/", "pub1"),
        range_between("pub/", [0]),
    ] {
        refused(kv.range(signed(&alice, range)).await, Code::PermissionDenied, DENIED);
    }
    refused(
        kv.put(signed(&alice, put_request("pub/1", "v"))).await,
        Code::PermissionDenied,
        DENIED,
    );
    let delete = DeleteRangeRequest {
        key: "pub/1".into(),
        ..Default::default()
    };
    refused(
        kv.delete_range(signed(&alice, delete)).await,
        Code::PermissionDenied,
        DENIED,
    );
    let root = token(&client, "root", "secret").await.unwrap();
    assert_eq!(
        kv.range(signed(&root, all_range())).await.unwrap().into_inner().count,
        3
    );
}

#[tokio::test]
async fn both_branches_and_nested_parts_of_a_transaction_are_checked() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    let alice = token(&client, "alice", "secret").await.unwrap();
    let mut kv = client.kv.clone();
    let bad = || vec![put_op("secret", "v")];
    let guard = compare(
        "secret",
        compare::CompareResult::Equal,
        compare::TargetUnion::Version(0),
    );
    for request in [
        txn_of(bad()),
        txn(vec![], vec![get_op("own")], bad()),
        txn_of(vec![txn_op(txn_of(bad()))]),
        txn(vec![guard], vec![], vec![]),
        txn_of(vec![get_op("secret")]),
    ] {
        refused(kv.txn(signed(&alice, request)).await, Code::PermissionDenied, DENIED);
    }
    kv.txn(signed(&alice, txn_of(vec![put_op("own", "v"), get_op("pub/1")])))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_rest_of_the_server_is_guarded_too() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (server, client) = guarded().await;
    let alice = token(&client, "alice", "secret").await.unwrap();
    let compact = CompactionRequest {
        revision: 2,
        physical: false,
    };
    refused(
        client.kv.clone().compact(signed(&alice, compact)).await,
        Code::PermissionDenied,
        DENIED,
    );
    let add = AuthUserAddRequest {
        name: "eve".into(),
        password: "x".into(),
        ..Default::default()
    };
    refused(
        client.auth.clone().user_add(signed(&alice, add)).await,
        Code::PermissionDenied,
        DENIED,
    );
    let member_add = MemberAddRequest {
        peer_ur_ls: vec!["http://127.0.0.1:1".into()],
        is_learner: true,
    };
    refused(
        client.cluster.clone().member_add(signed(&alice, member_add)).await,
        Code::PermissionDenied,
        DENIED,
    );
    let defragment = client
        .maintenance
        .clone()
        .defragment(signed(&alice, DefragmentRequest {}))
        .await;
    if server.is_3_5() {
        refused(defragment, Code::Unknown, "auth: permission denied");
    } else {
        refused(defragment, Code::PermissionDenied, DENIED);
    }
    assert_eq!(
        http(&server.endpoint(), "GET", "/health").status,
        200,
        "probes need no token"
    );
}

#[tokio::test]
async fn a_watch_without_the_right_is_rejected_by_text() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    let alice = token(&client, "alice", "secret").await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(create_request(create("secret"))).await.unwrap();
    sender.send(create_request(create("own"))).await.unwrap();
    let request = signed(&alice, tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut stream = client.watch.clone().watch(request).await.unwrap().into_inner();
    let rejected = within("a rejection", stream.message()).await.unwrap().unwrap();
    assert!(rejected.created && rejected.canceled);
    assert_eq!(rejected.watch_id, -1);
    assert_eq!(
        rejected.cancel_reason,
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    );
    assert!(
        within("a watcher", stream.message()).await.unwrap().unwrap().created,
        "the stream lives on"
    );
}

#[tokio::test]
async fn a_lease_with_keys_out_of_reach_cannot_be_revoked() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    let root = token(&client, "root", "secret").await.unwrap();
    let alice = token(&client, "alice", "secret").await.unwrap();
    let mut lease = client.lease.clone();
    let grant = LeaseGrantRequest { ttl: 1000, id: 5 };
    lease.lease_grant(signed(&alice, grant)).await.unwrap();
    let put = PutRequest {
        lease: 5,
        ..put_request("secret", "v")
    };
    client.kv.clone().put(signed(&root, put)).await.unwrap();
    let answer = lease.lease_revoke(signed(&alice, LeaseRevokeRequest { id: 5 })).await;
    refused(answer, Code::PermissionDenied, DENIED);
    lease
        .lease_revoke(signed(&root, LeaseRevokeRequest { id: 5 }))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_changed_password_ends_the_tokens_of_its_user() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = guarded().await;
    let root = token(&client, "root", "secret").await.unwrap();
    let alice = token(&client, "alice", "secret").await.unwrap();
    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "new".into(),
        ..Default::default()
    };
    client
        .auth
        .clone()
        .user_change_password(signed(&root, change))
        .await
        .unwrap();
    let answer = client.kv.clone().range(signed(&alice, key_range("own"))).await;
    refused(answer, Code::Unauthenticated, "etcdserver: invalid auth token");
    assert!(token(&client, "alice", "secret").await.is_err());
    token(&client, "alice", "new").await.unwrap();
}

#[tokio::test]
async fn users_and_roles_can_be_listed_changed_and_removed() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = start().await;
    let mut auth = client.auth.clone();
    add_role(&client, "b", &[(Type::Write, "k", b""), (Type::Read, "a", b"c")]).await;
    add_role(&client, "a", &[]).await;
    add_user(&client, "zoe", &["b", "a"]).await;
    add_user(&client, "adam", &[]).await;
    assert_eq!(
        auth.user_list(AuthUserListRequest {}).await.unwrap().into_inner().users,
        ["adam", "zoe"]
    );
    assert_eq!(
        auth.role_list(AuthRoleListRequest {}).await.unwrap().into_inner().roles,
        ["a", "b"]
    );
    let zoe = auth
        .user_get(AuthUserGetRequest { name: "zoe".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(zoe.roles, ["a", "b"]);
    let role = auth
        .role_get(AuthRoleGetRequest { role: "b".into() })
        .await
        .unwrap()
        .into_inner();
    let mut keys: Vec<_> = role
        .perm
        .iter()
        .map(|perm| (perm.key.clone(), perm.range_end.clone()))
        .collect();
    keys.sort();
    assert_eq!(keys, [(b"a".to_vec(), b"c".to_vec()), (b"k".to_vec(), vec![])]);

    let revoke = AuthRoleRevokePermissionRequest {
        role: "b".into(),
        key: "k".into(),
        range_end: vec![],
    };
    auth.role_revoke_permission(revoke.clone()).await.unwrap();
    let text = "etcdserver: permission is not granted to the role";
    refused(
        auth.role_revoke_permission(revoke).await,
        Code::FailedPrecondition,
        text,
    );
    auth.role_delete(AuthRoleDeleteRequest { role: "b".into() })
        .await
        .unwrap();
    let zoe = auth
        .user_get(AuthUserGetRequest { name: "zoe".into() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(zoe.roles, ["a"], "a deleted role leaves its users");
    auth.user_revoke_role(AuthUserRevokeRoleRequest {
        name: "zoe".into(),
        role: "a".into(),
    })
    .await
    .unwrap();
    auth.user_delete(AuthUserDeleteRequest { name: "zoe".into() })
        .await
        .unwrap();
    assert_eq!(
        auth.user_list(AuthUserListRequest {}).await.unwrap().into_inner().users,
        ["adam"]
    );
}

#[tokio::test]
async fn wrong_users_and_roles_are_refused_by_name() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = start().await;
    let mut auth = client.auth.clone();
    add_user(&client, "adam", &[]).await;
    let add = |name: &str| AuthUserAddRequest {
        name: name.into(),
        password: "x".into(),
        ..Default::default()
    };
    let failed = Code::FailedPrecondition;
    refused(
        auth.user_add(add("adam")).await,
        failed,
        "etcdserver: user name already exists",
    );
    refused(
        auth.user_add(add("")).await,
        Code::InvalidArgument,
        "etcdserver: user name is empty",
    );
    let get = AuthUserGetRequest { name: "nobody".into() };
    refused(auth.user_get(get).await, failed, "etcdserver: user name not found");
    let role = AuthRoleGetRequest { role: "nothing".into() };
    refused(auth.role_get(role).await, failed, "etcdserver: role name not found");
    let role = AuthRoleAddRequest { name: "".into() };
    refused(
        auth.role_add(role).await,
        Code::InvalidArgument,
        "etcdserver: role name is empty",
    );
    let grant = AuthUserGrantRoleRequest {
        user: "adam".into(),
        role: "nothing".into(),
    };
    refused(
        auth.user_grant_role(grant).await,
        failed,
        "etcdserver: role name not found",
    );
    let revoke = AuthUserRevokeRoleRequest {
        name: "adam".into(),
        role: "nothing".into(),
    };
    refused(
        auth.user_revoke_role(revoke).await,
        failed,
        "etcdserver: role is not granted to the user",
    );
    let grant = AuthRoleGrantPermissionRequest {
        name: "nothing".into(),
        perm: None,
    };
    refused(
        auth.role_grant_permission(grant).await,
        Code::InvalidArgument,
        "etcdserver: permission not given",
    );
}

#[tokio::test]
async fn auth_survives_a_restart() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (mut server, _) = guarded().await;
    server.restart();
    let client = server.client();
    assert!(client.try_range(key_range("own")).await.is_err());
    let alice = token(&client, "alice", "secret").await.unwrap();
    client
        .kv
        .clone()
        .put(signed(&alice, put_request("own", "v")))
        .await
        .unwrap();
    refused(
        client.kv.clone().range(signed(&alice, key_range("secret"))).await,
        Code::PermissionDenied,
        DENIED,
    );
}

#[tokio::test]
async fn a_user_without_a_password_cannot_authenticate() {
    if !is_reference() {
        return println!("skipped: needs users and roles, not there yet");
    }
    let (_server, client) = start().await;
    let options = Some(UserAddOptions { no_password: true });
    let request = AuthUserAddRequest {
        name: "cert".into(),
        options,
        ..Default::default()
    };
    client.auth.clone().user_add(request).await.unwrap();
    client
        .auth
        .clone()
        .role_add(AuthRoleAddRequest { name: "root".into() })
        .await
        .unwrap();
    add_user(&client, "root", &["root"]).await;
    client.auth.clone().auth_enable(AuthEnableRequest {}).await.unwrap();
    let text = "auth: authentication failed, password was given for no password user";
    refused(token(&client, "cert", "anything").await, Code::Unknown, text);
}
