//! The little of HTTP/1.1 that a scrape needs (RFC 9110, RFC 9112): one GET a connection, which is closed afterwards.

/// Longest head of a request in bytes.
pub(super) const MAX_REQUEST: usize = 8 << 10;
/// Most header fields of a request.
const MAX_FIELDS: usize = 64;
/// What the text exposition format calls itself.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What to do about the bytes of a request so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the rest.
    Wait,
    /// Send this.
    Answer(String),
}

/// Judges a request as far as it has come; `metrics` makes the exposition if that is what is wanted.
pub(super) fn answer(request: &[u8], metrics: impl FnOnce() -> String) -> Next {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let refuse = |status, text: &str| Next::Answer(response(status, "text/plain; charset=utf-8", "", text));
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) if request.len() < MAX_REQUEST => Next::Wait,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            refuse("431 Request Header Fields Too Large", "the request is too long\n")
        }
        Err(e) => refuse("400 Bad Request", &format!("this is no HTTP request: {e}\n")),
        Ok(httparse::Status::Complete(_)) => {
            // What was asked to be left out of the answer, after the question mark, is not.
            let path = parsed.path.unwrap_or_default().split('?').next();
            match (path, parsed.method) {
                (Some("/metrics"), Some("GET")) => Next::Answer(response("200 OK", EXPOSITION, "", &metrics())),
                (Some("/metrics"), _) => Next::Answer(response(
                    "405 Method Not Allowed",
                    "text/plain; charset=utf-8",
                    "Allow: GET\r\n",
                    "only GET is allowed\n",
                )),
                _ => refuse("404 Not Found", "there is only /metrics\n"),
            }
        }
    }
}

fn response(status: &str, content: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n\
         {body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> Option<String> {
        match answer(request.as_bytes(), || "all\n".into()) {
            Next::Wait => None,
            Next::Answer(text) => Some(text),
        }
    }

    #[test]
    fn metrics_are_given_to_who_asks_for_them() {
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
                        Content-Length: 4\r\nConnection: close\r\n\r\nall\n";
        for request in ["GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "GET /metrics?name[]=x HTTP/1.0\r\n\r\n"] {
            assert_eq!(ask(request).as_deref(), Some(expected), "{request}");
        }
    }

    #[test]
    fn whatever_else_is_asked_is_refused() {
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        let long = format!("GET /metrics HTTP/1.1\r\na: {}", "x".repeat(MAX_REQUEST));
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", "404"),
            ("POST /x HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "405"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "405"),
            ("\0\0\0", "400"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\na b: c\r\n\r\n", "400"),
            (&many, "431"),
            (&long, "431"),
        ] {
            let answer = ask(request).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
            assert_eq!(answer.contains("\r\nAllow: GET\r\n"), status == "405", "{answer}");
            assert!(!answer.contains("all\n"), "{answer}");
        }
    }

    #[test]
    fn every_beginning_of_a_request_is_waited_for() {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost:9100\r\nAccept: */*\r\n\r\n";
        for end in 0..request.len() {
            assert_eq!(ask(&request[..end]), None, "{:?}", &request[..end]);
        }
    }
}
