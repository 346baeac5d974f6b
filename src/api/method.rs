//! The methods of etcd's API, by their paths.

use ahash::AHashMap;

/// How messages flow, as metrics name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// One message each way.
    Unary,
    /// Many answers to one message.
    ServerStream,
    /// Many both ways.
    Bidi,
}

impl Flow {
    /// The value of the `grpc_type` label.
    pub fn label(self) -> &'static str {
        match self {
            Flow::Unary => "unary",
            Flow::ServerStream => "server_stream",
            Flow::Bidi => "bidi_stream",
        }
    }
}

/// One row of [`METHODS`].
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// Which method.
    pub method: Method,
    /// Full name of its service.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How messages flow.
    pub flow: Flow,
}

macro_rules! methods {
    ($($id:ident $service:literal $name:literal $flow:ident;)*) => {
        /// A method of the API.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[allow(missing_docs)]
        pub enum Method { $($id),* }

        /// All methods, at the position of their number.
        pub const METHODS: &[MethodInfo] = &[
            $(MethodInfo { method: Method::$id, service: $service, name: $name, flow: Flow::$flow }),*
        ];
    };
}

methods! {
    Range "etcdserverpb.KV" "Range" Unary;
    RangeStream "etcdserverpb.KV" "RangeStream" ServerStream;
    Put "etcdserverpb.KV" "Put" Unary;
    DeleteRange "etcdserverpb.KV" "DeleteRange" Unary;
    Txn "etcdserverpb.KV" "Txn" Unary;
    Compact "etcdserverpb.KV" "Compact" Unary;
    Watch "etcdserverpb.Watch" "Watch" Bidi;
    LeaseGrant "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive "etcdserverpb.Lease" "LeaseKeepAlive" Bidi;
    LeaseTimeToLive "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm "etcdserverpb.Maintenance" "Alarm" Unary;
    Status "etcdserverpb.Maintenance" "Status" Unary;
    Defragment "etcdserverpb.Maintenance" "Defragment" Unary;
    Hash "etcdserverpb.Maintenance" "Hash" Unary;
    HashKv "etcdserverpb.Maintenance" "HashKV" Unary;
    Snapshot "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MoveLeader "etcdserverpb.Maintenance" "MoveLeader" Unary;
    Downgrade "etcdserverpb.Maintenance" "Downgrade" Unary;
    AuthEnable "etcdserverpb.Auth" "AuthEnable" Unary;
    AuthDisable "etcdserverpb.Auth" "AuthDisable" Unary;
    AuthStatus "etcdserverpb.Auth" "AuthStatus" Unary;
    Authenticate "etcdserverpb.Auth" "Authenticate" Unary;
    UserAdd "etcdserverpb.Auth" "UserAdd" Unary;
    UserGet "etcdserverpb.Auth" "UserGet" Unary;
    UserList "etcdserverpb.Auth" "UserList" Unary;
    UserDelete "etcdserverpb.Auth" "UserDelete" Unary;
    UserChangePassword "etcdserverpb.Auth" "UserChangePassword" Unary;
    UserGrantRole "etcdserverpb.Auth" "UserGrantRole" Unary;
    UserRevokeRole "etcdserverpb.Auth" "UserRevokeRole" Unary;
    RoleAdd "etcdserverpb.Auth" "RoleAdd" Unary;
    RoleGet "etcdserverpb.Auth" "RoleGet" Unary;
    RoleList "etcdserverpb.Auth" "RoleList" Unary;
    RoleDelete "etcdserverpb.Auth" "RoleDelete" Unary;
    RoleGrantPermission "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    RoleRevokePermission "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    HealthCheck "grpc.health.v1.Health" "Check" Unary;
    HealthList "grpc.health.v1.Health" "List" Unary;
    HealthWatch "grpc.health.v1.Health" "Watch" ServerStream;
}

impl Method {
    /// Position in [`METHODS`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its row.
    pub fn info(self) -> &'static MethodInfo {
        &METHODS[self.index()]
    }

    /// Whether a learner serves it (a range only when serializable).
    ///
    /// Source: behaviours 22.
    pub fn on_learner(self) -> bool {
        matches!(self, Method::Status | Method::Snapshot | Method::Range)
    }
}

/// Paths to methods.
#[derive(Debug)]
pub struct Router {
    by_path: AHashMap<String, Method>,
}

impl Default for Router {
    fn default() -> Self {
        let path = |info: &MethodInfo| (format!("/{}/{}", info.service, info.name), info.method);
        Router {
            by_path: METHODS.iter().map(path).collect(),
        }
    }
}

impl Router {
    /// The method of a path.
    pub fn find(&self, path: &str) -> Option<Method> {
        self.by_path.get(path).copied()
    }

    /// Whether some method belongs to the service.
    pub fn knows_service(service: &str) -> bool {
        METHODS.iter().any(|info| info.service == service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path() {
        let router = Router::default();
        for (index, info) in METHODS.iter().enumerate() {
            assert_eq!(info.method.index(), index);
            assert_eq!(
                router.find(&format!("/{}/{}", info.service, info.name)),
                Some(info.method)
            );
        }
        assert_eq!(router.find("/etcdserverpb.KV/Nope"), None);
        assert!(Router::knows_service("etcdserverpb.KV") && !Router::knows_service("etcdserverpb.Kv"));
    }
}
