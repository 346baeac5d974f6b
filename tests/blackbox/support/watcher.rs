//! One watch stream, in both directions.

use super::{
    Client,
    pb::{
        etcdserverpb::{
            WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
            watch_request::RequestUnion,
        },
        mvccpb::Event,
    },
    prefix_end, within,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// An open watch stream.
pub struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watcher {
    /// Opens a stream and creates one watcher on it; returns the stream once the server said `created`.
    pub async fn open(client: &Client, create: WatchCreateRequest) -> Watcher {
        let mut watcher = Watcher::open_with(client, vec![create_request(create)]).await;
        let created = watcher.next().await;
        assert!(
            created.created && !created.canceled,
            "the watcher is created: {created:?}"
        );
        watcher
    }

    /// Opens a stream with `requests` already sent (a server says nothing, not even headers, before it has an answer).
    pub async fn open_with(client: &Client, requests: Vec<WatchRequest>) -> Watcher {
        let opened = within("opening a watch stream", Watcher::try_open_with(client, requests)).await;
        opened.expect("the stream opens")
    }

    /// Opens a stream as [`Watcher::open_with`] does, if the server lets us.
    pub async fn try_open_with(client: &Client, requests: Vec<WatchRequest>) -> Result<Watcher, Status> {
        let (sender, receiver) = mpsc::channel(1024);
        for request in requests {
            sender.try_send(request).expect("the channel has room");
        }
        let mut watch = client.watch.clone();
        let answer = watch.watch(ReceiverStream::new(receiver)).await?;
        Ok(Watcher {
            requests: sender,
            responses: answer.into_inner(),
        })
    }

    /// Asks for one more watcher.
    pub async fn create(&self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    /// Asks for the end of a watcher.
    pub async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
            .await;
    }

    /// Asks for the progress of the whole stream.
    pub async fn ask_progress(&self) {
        assert!(self.try_ask_progress(), "the stream is open");
    }

    /// Asks for the progress of the whole stream; false when the stream is over or takes nothing.
    pub fn try_ask_progress(&self) -> bool {
        let union = Some(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        self.requests.try_send(WatchRequest { request_union: union }).is_ok()
    }

    /// Sends a request without a body.
    pub async fn send_empty(&self) {
        self.requests
            .send(WatchRequest { request_union: None })
            .await
            .expect("the stream is open");
    }

    async fn send(&self, union: RequestUnion) {
        self.requests
            .send(WatchRequest {
                request_union: Some(union),
            })
            .await
            .expect("the stream is open");
    }

    /// The next response, which must come.
    pub async fn next(&mut self) -> WatchResponse {
        self.try_next()
            .await
            .expect("the stream goes on")
            .expect("the stream is open")
    }

    /// The next response, the end of the stream, or its error.
    pub async fn try_next(&mut self) -> Result<Option<WatchResponse>, Status> {
        within("the next watch response", self.responses.message()).await
    }

    /// Collects events until there are `count`.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled, "the watcher lives on: {response:?}");
            events.extend(response.events);
        }
        events
    }

    /// Asserts that nothing comes for a while.
    pub async fn is_silent_for_ms(&mut self, milliseconds: u64) {
        let wait = tokio::time::timeout(Duration::from_millis(milliseconds), self.responses.message());
        if let Ok(response) = wait.await {
            panic!("expected silence, but got {response:?}");
        }
    }

    /// Closes the sending side and keeps the receiving side.
    pub fn into_responses(self) -> Streaming<WatchResponse> {
        self.responses
    }
}

/// A watcher of one key.
pub fn create(key: impl Into<Vec<u8>>) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    }
}

/// A watcher of the keys that start with `prefix`.
pub fn create_prefix(prefix: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.into(),
        range_end: prefix_end(prefix),
        ..Default::default()
    }
}

/// Wraps a create.
pub fn create_request(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}
