//! Plain HTTP on the client port: health, version, metrics.
//!
//! Source: http table.

use bytes::Bytes;
use net::{
    grpc::{HttpHead, ServerConn},
    io::{HeaderMap, HeaderValue, Http1Answer, Http1Reply, Http1Request, Method as HttpMethod, StatusCode, header},
};

use super::{Api, Verdict, core::Waiting, shard::CallKey, status::Failure};
use crate::{
    member::{CORRUPT, NOSPACE, View},
    metrics::CHECKS,
    version::{ETCD_VERSION, STORAGE_VERSION},
};

/// Why a member is unhealthy whose disk hangs; etcd has no such check.
const STALLED: &str = "DISK STALLED";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// A finished page.
pub(super) struct Page {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Bytes,
}

/// What a path asks for.
enum Route {
    Page(Page),
    /// A check that needs a leadership round; the page follows from its verdict.
    Checked(Box<dyn FnOnce(Result<(), Failure>) -> Page>),
}

impl Page {
    pub(super) fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Page {
        Page {
            status,
            content_type,
            body: body.into(),
        }
    }

    pub(super) fn not_found() -> Page {
        Page::new(404, TEXT, "404 page not found\n")
    }
}

impl Api {
    /// Answers an HTTP/1.1 request.
    pub(super) fn http1(&mut self, request: Http1Request) -> Http1Reply {
        if request.method == HttpMethod::OPTIONS {
            let mut headers = HeaderMap::new();
            allow_origin(&mut headers);
            return Http1Reply::Now(Http1Answer {
                status: StatusCode::OK,
                headers,
                body: "".into(),
            });
        }
        let metrics_only = request.conn.tag == self.setup.metrics_tag;
        if request.conn.tag == self.setup.peer_tag {
            return self.peer_http(&request);
        }
        let get = request.method == HttpMethod::GET;
        let (path, query) = (
            request.uri.path().to_owned(),
            request.uri.query().unwrap_or("").to_owned(),
        );
        match self.route(get, &path, &query, metrics_only) {
            Route::Page(page) => Http1Reply::Now(answer(page)),
            Route::Checked(then) => {
                let verdict = Verdict::default();
                if let Err(failure) = self.wait_for_round(Waiting::Health(verdict.clone())) {
                    verdict.give(Err(failure));
                }
                Http1Reply::Later(Box::pin(async move { answer(then(verdict.wait().await)) }))
            }
        }
    }

    /// Answers a plain request over HTTP/2. Checks are made from the view alone there.
    pub(super) fn on_http2(&mut self, key: CallKey, head: &HttpHead, wire: &mut ServerConn) {
        let (path, query) = head.path().split_once('?').unwrap_or((head.path(), ""));
        let get = head.method() == "GET";
        let (path, query) = (path.to_owned(), query.to_owned());
        let page = match self.route(get, &path, &query, false) {
            Route::Page(page) => page,
            Route::Checked(then) => {
                let leader = self.view().leader;
                then(if leader == 0 {
                    Err(super::status::NO_LEADER)
                } else {
                    Ok(())
                })
            }
        };
        wire.respond_http(key.1, page.status, &[("content-type", page.content_type)], &page.body);
    }

    pub(super) fn version_page(&mut self) -> Page {
        let cluster = self
            .view()
            .members
            .cluster_version
            .clone()
            .unwrap_or_else(|| "not_decided".into());
        let body =
            format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{STORAGE_VERSION}"}}"#);
        Page::new(200, "application/json", body)
    }

    fn route(&mut self, get: bool, path: &str, query: &str, metrics_only: bool) -> Route {
        let page = |status, body: &'static str| Route::Page(Page::new(status, TEXT, body));
        let known = matches!(path, "/health" | "/metrics" | "/version" | "/livez" | "/readyz")
            || path.starts_with("/livez/")
            || path.starts_with("/readyz/");
        if !known || (metrics_only && path == "/version") {
            return Route::Page(Page::not_found());
        }
        // Prometheus's handler takes any method.
        if !get && path != "/metrics" {
            return page(405, "Method Not Allowed\n");
        }
        match path {
            "/metrics" => {
                let body = self.metrics_page();
                Route::Page(Page::new(200, "text/plain; version=0.0.4; charset=utf-8", body))
            }
            "/version" => Route::Page(self.version_page()),
            "/health" => self.health(query),
            path => self.checks(path, query),
        }
    }

    fn health(&mut self, query: &str) -> Route {
        let view = self.view();
        let excluded = values(query, "exclude");
        let serializable = values(query, "serializable").iter().any(|value| value == "true");
        let alarm = view
            .alarms
            .iter()
            .map(|(_, kind)| alarm_name(*kind))
            .find(|name| !excluded.iter().any(|e| e == name));
        let reason = match alarm {
            Some(name) => Some(format!("ALARM {name}")),
            None if !serializable && view.leader == 0 => Some("RAFT NO LEADER".to_owned()),
            None if !serializable && view.is_stalled => Some(STALLED.to_owned()),
            None => None,
        };
        let metrics = self.setup.metrics.clone();
        let verdict = move |reason: Option<String>| {
            let healthy = reason.is_none();
            let counter = if healthy {
                &metrics.health_success
            } else {
                &metrics.health_failures
            };
            counter.add(1);
            let body = format!(r#"{{"health":"{healthy}","reason":"{}"}}"#, reason.unwrap_or_default());
            // Go's http.Error ends the text of a failure with a line feed.
            let (status, end) = if healthy { (200, "") } else { (503, "\n") };
            Page::new(status, TEXT, body + end)
        };
        if reason.is_some() || serializable {
            return Route::Page(verdict(reason));
        }
        Route::Checked(Box::new(move |result| {
            verdict(result.err().map(|e| format!("RANGE ERROR:{}", e.text)))
        }))
    }

    /// `/livez`, `/readyz` and their parts.
    fn checks(&mut self, path: &str, query: &str) -> Route {
        let view = self.view();
        let (kind, one) = path[1..]
            .split_once('/')
            .map_or((&path[1..], None), |(kind, one)| (kind, Some(one)));
        let all: &[&'static str] = match kind {
            "livez" => &["serializable_read"],
            _ => &[
                "data_corruption",
                "linearizable_read",
                "non_learner",
                "serializable_read",
            ],
        };
        let excluded = values(query, "exclude");
        let chosen: Vec<&'static str> = match one {
            Some(one) => match all.iter().find(|name| **name == one) {
                Some(name) => vec![*name],
                None => return Route::Page(Page::not_found()),
            },
            None => all
                .iter()
                .copied()
                .filter(|name| !excluded.iter().any(|e| e == name))
                .collect(),
        };
        let verbose = query
            .split('&')
            .any(|part| part == "verbose" || part.starts_with("verbose="));
        let remote = chosen.contains(&"linearizable_read");
        let (metrics, clock) = (self.setup.metrics.clone(), self.setup.clock);
        let kind = if kind == "livez" { "livez" } else { "readyz" };
        let finish = move |result: Result<(), Failure>| {
            let ran = |check: &str, ok: bool| {
                let at = CHECKS.iter().position(|row| *row == (kind, check));
                metrics.checks[at.expect("every check is in the table")].ran(ok, clock());
            };
            checks_page(&chosen, verbose, &view, result, ran)
        };
        if remote {
            Route::Checked(Box::new(finish))
        } else {
            Route::Page(finish(Ok(())))
        }
    }
}

fn checks_page(
    chosen: &[&str],
    verbose: bool,
    view: &View,
    linearizable: Result<(), Failure>,
    ran: impl Fn(&str, bool),
) -> Page {
    let (mut lines, mut failed) = (String::new(), false);
    for name in chosen {
        let error = match *name {
            "data_corruption" if view.alarms.iter().any(|(_, kind)| *kind == CORRUPT) => {
                Some("alarm activated: CORRUPT".to_owned())
            }
            "non_learner" if view.is_learner => Some("not supported for learner".to_owned()),
            "linearizable_read" if view.is_stalled => Some(STALLED.to_owned()),
            "linearizable_read" => linearizable.err().map(|failure| failure.text.to_owned()),
            _ => None,
        };
        ran(name, error.is_none());
        match error {
            None => lines.push_str(&format!("[+]{name} ok\n")),
            Some(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    if failed {
        return Page::new(503, TEXT, format!("{lines}\n"));
    }
    let body = match verbose {
        true => format!("{lines}ok\n"),
        false => "ok\n".to_owned(),
    };
    Page::new(200, TEXT, body)
}

fn alarm_name(kind: i32) -> &'static str {
    match kind {
        NOSPACE => "NOSPACE",
        CORRUPT => "CORRUPT",
        _ => "UNKNOWN",
    }
}

/// The values of a query parameter.
fn values(query: &str, name: &str) -> Vec<String> {
    let pair = |part: &str| part.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    query
        .split('&')
        .filter_map(pair)
        .filter(|(n, _)| n == name)
        .map(|(_, value)| value)
        .collect()
}

pub(super) fn answer(page: Page) -> Http1Answer {
    let status = StatusCode::from_u16(page.status).expect("the statuses here are valid");
    let mut answer = Http1Answer::typed(status, page.content_type, page.body);
    if page.status == 405 {
        answer.headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    if page.status >= 400 || page.content_type == TEXT {
        answer
            .headers
            .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    allow_origin(&mut answer.headers);
    answer
}

/// Source: http table, CORS headers of every response.
fn allow_origin(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let names = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
}
