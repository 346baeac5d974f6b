//! Clients of every service over one connection, with answers unwrapped from tonic's envelopes.

use super::pb::{
    etcdserverpb::{
        auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
        maintenance_client::MaintenanceClient, watch_client::WatchClient, *,
    },
    health::health_client::HealthClient,
    v3electionpb::election_client::ElectionClient,
    v3lockpb::lock_client::LockClient,
};
use super::{PATIENCE, key_range, prefix_range};
use std::fmt::Debug;
use tonic::{
    Code, Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

/// A connection to a server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    /// The connection itself.
    pub channel: Channel,
    /// `etcdserverpb.KV`.
    pub kv: KvClient<Channel>,
    /// `etcdserverpb.Watch`.
    pub watch: WatchClient<Channel>,
    /// `etcdserverpb.Lease`.
    pub lease: LeaseClient<Channel>,
    /// `etcdserverpb.Cluster`.
    pub cluster: ClusterClient<Channel>,
    /// `etcdserverpb.Maintenance`.
    pub maintenance: MaintenanceClient<Channel>,
    /// `etcdserverpb.Auth`.
    pub auth: AuthClient<Channel>,
    /// `grpc.health.v1.Health`.
    pub health: HealthClient<Channel>,
    /// `v3lockpb.Lock`.
    pub lock: LockClient<Channel>,
    /// `v3electionpb.Election`.
    pub election: ElectionClient<Channel>,
}

impl Client {
    /// A client of `url`, which connects at the first call.
    pub fn connect(url: &str) -> Client {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("the server's URL is valid");
        Client::over(endpoint.timeout(PATIENCE).connect_lazy())
    }

    /// A client over a given connection.
    pub fn over(channel: Channel) -> Client {
        Client {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            health: HealthClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel.clone()),
            channel,
        }
    }

    /// The same connection, with requests compressed by gzip.
    pub fn compressing(self) -> Client {
        let gzip = CompressionEncoding::Gzip;
        Client {
            kv: self.kv.send_compressed(gzip).accept_compressed(gzip),
            watch: self.watch.send_compressed(gzip).accept_compressed(gzip),
            lease: self.lease.send_compressed(gzip).accept_compressed(gzip),
            maintenance: self.maintenance.send_compressed(gzip).accept_compressed(gzip),
            ..self
        }
    }

    /// Puts `key`, which must work. Returns the revision.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> i64 {
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
        let answer = self.try_put(request).await.expect("the put succeeds");
        answer.header.expect("a put has a header").revision
    }

    /// Puts as asked.
    pub async fn try_put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.kv.clone().put(request).await?.into_inner())
    }

    /// Ranges as asked.
    pub async fn try_range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// Ranges as asked, which must work.
    pub async fn range(&self, request: RangeRequest) -> RangeResponse {
        self.try_range(request).await.expect("the range succeeds")
    }

    /// The value of `key`, if any.
    pub async fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.range(key_range(key)).await.kvs.pop().map(|kv| kv.value)
    }

    /// The keys that start with `prefix`, as text.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        super::keys(&self.range(prefix_range(prefix)).await.kvs)
    }

    /// Deletes as asked.
    pub async fn try_delete(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        Ok(self.kv.clone().delete_range(request).await?.into_inner())
    }

    /// Deletes one key, which must work. Returns the revision.
    pub async fn delete(&self, key: &str) -> i64 {
        let request = DeleteRangeRequest {
            key: key.into(),
            ..Default::default()
        };
        let answer = self.try_delete(request).await.expect("the delete succeeds");
        answer.header.expect("a delete has a header").revision
    }

    /// Runs a transaction as asked.
    pub async fn try_txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv.clone().txn(request).await?.into_inner())
    }

    /// Runs a transaction, which must be accepted.
    pub async fn txn(&self, request: TxnRequest) -> TxnResponse {
        self.try_txn(request).await.expect("the transaction is accepted")
    }

    /// Compacts up to `revision`.
    pub async fn try_compact(&self, revision: i64) -> Result<CompactionResponse, Status> {
        Ok(self
            .kv
            .clone()
            .compact(CompactionRequest {
                revision,
                physical: false,
            })
            .await?
            .into_inner())
    }

    /// Compacts up to `revision`, which must work, and waits until the old revisions are gone.
    pub async fn compact(&self, revision: i64) {
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        self.kv.clone().compact(request).await.expect("the compaction succeeds");
    }

    /// The members, as the leader knows them.
    pub async fn members(&self) -> Vec<Member> {
        let request = MemberListRequest { linearizable: true };
        let answer = self.cluster.clone().member_list(request).await;
        answer.expect("members are listed").into_inner().members
    }

    /// The current revision.
    pub async fn revision(&self) -> i64 {
        self.range(key_range("x"))
            .await
            .header
            .expect("a range has a header")
            .revision
    }

    /// Grants a lease.
    pub async fn try_grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        Ok(self
            .lease
            .clone()
            .lease_grant(LeaseGrantRequest { ttl, id })
            .await?
            .into_inner())
    }

    /// Grants a lease, which must work. Returns its id.
    pub async fn grant(&self, ttl: i64) -> i64 {
        self.try_grant(0, ttl).await.expect("the grant succeeds").id
    }

    /// Revokes a lease.
    pub async fn try_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        Ok(self
            .lease
            .clone()
            .lease_revoke(LeaseRevokeRequest { id })
            .await?
            .into_inner())
    }

    /// What is left of a lease, with its keys.
    pub async fn time_to_live(&self, id: i64) -> LeaseTimeToLiveResponse {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        self.lease
            .clone()
            .lease_time_to_live(request)
            .await
            .expect("asking for a TTL succeeds")
            .into_inner()
    }

    /// The member's status.
    pub async fn status(&self) -> StatusResponse {
        self.maintenance
            .clone()
            .status(StatusRequest {})
            .await
            .expect("status succeeds")
            .into_inner()
    }

    /// The hash of the key space at `revision`; 0 means now.
    pub async fn try_hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        Ok(self
            .maintenance
            .clone()
            .hash_kv(HashKvRequest { revision })
            .await?
            .into_inner())
    }

    /// Asks for, raises or clears alarms.
    pub async fn alarm(&self, action: alarm_request::AlarmAction, member_id: u64, alarm: AlarmType) -> AlarmResponse {
        let request = AlarmRequest {
            action: action.into(),
            member_id,
            alarm: alarm.into(),
        };
        self.maintenance
            .clone()
            .alarm(request)
            .await
            .expect("alarm requests succeed")
            .into_inner()
    }
}

/// Asserts that `answer` is an error with exactly this code and text.
#[track_caller]
pub fn refused<T: Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    match answer {
        Ok(answer) => panic!("expected {code:?} {text:?}, but it was accepted: {answer:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, text)),
    }
}
