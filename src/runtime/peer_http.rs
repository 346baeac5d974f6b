//! Asking other members over HTTP on their peer URLs: one request, one connection.

use std::time::{Duration, Instant};

use net::io::{connect, within};

use super::peers::resolve;

/// Longest answer that is read. Units: bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A member's answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The cluster it says it belongs to.
    pub cluster_id: Option<u64>,
    /// The body.
    pub body: String,
    /// Time from the request to the end of the answer, connecting not counted.
    pub took: Duration,
}

/// GETs `path` of the peer URL `url`.
///
/// Errors: what went wrong on the way, in words; any status is an answer.
pub async fn get(
    url: &str,
    path: &str,
    cluster_id: Option<u64>,
    body: &str,
    patience: Duration,
) -> Result<Answer, String> {
    let asked = within(patience, exchange(url, path, cluster_id, body, patience)).await;
    let answer = asked.ok_or_else(|| format!("no answer within {patience:?}"))?;
    let (answer, took) = answer.map_err(|error| error.to_string())?;
    Ok(Answer {
        took,
        ..parse(&answer)?
    })
}

async fn exchange(
    url: &str,
    path: &str,
    cluster_id: Option<u64>,
    body: &str,
    patience: Duration,
) -> std::io::Result<(Vec<u8>, Duration)> {
    let address = resolve(url).await?;
    let mut stream = connect(address, patience).await?;
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let cluster = cluster_id.map_or_else(String::new, |id| format!("X-Etcd-Cluster-ID: {id:x}\r\n"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{cluster}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let sent = Instant::now();
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut buf) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buf).await?;
        if read == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Ok((answer, sent.elapsed()));
        }
        answer.extend_from_slice(&buf[..read]);
    }
}

fn parse(answer: &[u8]) -> Result<Answer, String> {
    let answer = std::str::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("its answer is cut off")?;
    let line = head.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let cluster = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let named = name.eq_ignore_ascii_case("X-Etcd-Cluster-ID");
        named.then(|| u64::from_str_radix(value.trim(), 16).ok()).flatten()
    });
    Ok(Answer {
        status: status.ok_or_else(|| format!("it answered {line:?}"))?,
        cluster_id: cluster,
        body: body.trim().to_owned(),
        took: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_cluster_and_body() {
        let answer = "HTTP/1.1 200 OK\r\nx-etcd-cluster-id: cdf818194e3a8c32\r\n\r\n[1]\n";
        let answer = parse(answer.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.cluster_id), (200, Some(0xcdf8_1819_4e3a_8c32)));
        assert_eq!(answer.body, "[1]");
        assert_eq!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap().status, 404);
        assert!(parse(b"junk").is_err());
    }
}
