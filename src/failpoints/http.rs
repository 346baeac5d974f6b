//! The port over which points are armed, with gofail's paths, codes and texts.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | `name=terms` of every point, one a line |
//! | `GET /name` | its terms; 404 when there is none or it is not armed |
//! | `GET /name/count` | how often it acted |
//! | `PUT /name` | arms it with the terms in the body: 204 |
//! | `PUT /failpoints` | arms all of `a=terms;b=terms` in the body: 204 |
//! | `DELETE /name` | disarms it: 204 |
//!
//! One request a connection, one after the other, on a thread of its own: whatever the executors do, it answers.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::{FailpointError, NAMES, answering, disable, enable, parse_list, status};

/// Units: bytes. A longer request is refused.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// A caller that is silent for this long is let go.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A request without what nobody asks for.
#[derive(Debug, PartialEq)]
struct Request {
    method: String,
    path: String,
    body: String,
}

struct Answer {
    code: u16,
    body: String,
}

/// Binds the address and serves it until the process ends.
pub fn listen(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let serve = move || {
        for stream in listener.incoming().flatten() {
            // A caller that goes away does not matter to anybody else.
            let _ = serve_one(stream);
        }
    };
    std::thread::Builder::new().name("failpoints".into()).spawn(serve)?;
    Ok(())
}

fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let request = read(&mut stream)?;
    // A point that ends the process does so once this is answered.
    let _gate = answering();
    let Answer { code, body } = match request {
        Some(request) => answer(&request),
        None => error(400, "malformed request".to_owned()),
    };
    let allow = if code == 405 { "Allow: DELETE, GET, PUT\r\n" } else { "" };
    let reason = match code {
        200 => "OK",
        204 => "No Content",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        _ => "Bad Request",
    };
    let length = match code {
        204 => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n{length}{allow}Connection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// Reads one request; nothing when it makes no sense.
fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let (mut bytes, mut buf) = (Vec::new(), [0; 4096]);
    loop {
        match parse(&bytes) {
            Parsed::Whole(request) => return Ok(Some(request)),
            Parsed::Senseless => return Ok(None),
            Parsed::More if bytes.len() > REQUEST_BYTES_MAX => return Ok(None),
            Parsed::More => {}
        }
        match stream.read(&mut buf)? {
            0 => return Ok(None),
            read => bytes.extend_from_slice(&buf[..read]),
        }
    }
}

enum Parsed {
    Whole(Request),
    More,
    Senseless,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Parsed::More;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Parsed::Senseless;
    };
    let header = |line: &str| {
        line.split_once(':')
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let length = lines.filter_map(header).find(|(name, _)| name == "content-length");
    let Ok(length) = length.map_or(Ok(0), |(_, value)| value.parse::<usize>()) else {
        return Parsed::Senseless;
    };
    let body = &bytes[end + 4..];
    if body.len() < length {
        return Parsed::More;
    }
    Parsed::Whole(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        body: String::from_utf8_lossy(&body[..length]).into_owned(),
    })
}

fn answer(request: &Request) -> Answer {
    let Some(name) = request.path.strip_prefix('/') else {
        return error(400, "malformed request URI".to_owned());
    };
    match request.method.as_str() {
        "PUT" => put(name, &request.body),
        "GET" => get(name),
        "DELETE" => match disable(name) {
            Ok(()) => done(),
            Err(why) => error(400, format!("failed to delete failpoint {why}")),
        },
        _ => error(405, "Method not allowed".to_owned()),
    }
}

fn put(name: &str, body: &str) -> Answer {
    if name != "failpoints" {
        return match enable(name, body) {
            Ok(()) => done(),
            Err(_) => error(400, format!("failed to set failpoint {name}")),
        };
    }
    let all = parse_list(body).and_then(|list| list.into_iter().try_for_each(|(name, terms)| enable(name, terms)));
    match all {
        Ok(()) => done(),
        Err(why) => error(400, format!("fail to set failpoint: {why}")),
    }
}

fn get(name: &str) -> Answer {
    if name.is_empty() {
        let line = |name: &&str| format!("{name}={}\n", status(name).map_or(String::new(), |(terms, _)| terms));
        return ok(NAMES.iter().map(line).collect());
    }
    let failed = |code, why: FailpointError| error(code, format!("failed to GET: {why}"));
    if let Some(name) = name.strip_suffix("/count") {
        return match status(name) {
            Ok((_, count)) => ok(count.to_string()),
            Err(why @ FailpointError::NoExist) => failed(404, why),
            Err(why) => failed(500, why),
        };
    }
    match status(name) {
        Ok((terms, _)) => ok(terms + "\n"),
        Err(why) => failed(404, why),
    }
}

fn ok(body: String) -> Answer {
    Answer { code: 200, body }
}

fn done() -> Answer {
    Answer {
        code: 204,
        body: String::new(),
    }
}

/// Go's `http.Error` ends its text with a line feed.
fn error(code: u16, text: String) -> Answer {
    Answer {
        code,
        body: text + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_once_its_body_is_there() {
        let whole = b"PUT /beforeCommit HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 5\r\n\r\npanic";
        for end in 0..whole.len() {
            assert!(matches!(parse(&whole[..end]), Parsed::More), "{end} bytes");
        }
        let Parsed::Whole(request) = parse(whole) else {
            panic!("it is whole")
        };
        let wanted = ["PUT", "/beforeCommit", "panic"].map(str::to_owned);
        assert_eq!([request.method, request.path, request.body], wanted);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(read(&mut &b"GET / HTTP/1.1\r\n"[..]).unwrap(), None);
        assert_eq!(read(&mut &b"\r\n\r\n"[..]).unwrap(), None);
        assert_eq!(
            read(&mut &b"PUT /x HTTP/1.1\r\nContent-Length: many\r\n\r\n"[..]).unwrap(),
            None
        );
        assert_eq!(read(&mut &vec![b'x'; 2 * REQUEST_BYTES_MAX][..]).unwrap(), None);
    }
}
