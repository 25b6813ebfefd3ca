//! Requests and answers as JSON-RPC 2.0 writes them.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What can be asked.
const METHODS: [&str; 12] = [
    "status",
    "map",
    "stats",
    "mode.show",
    "mode.set",
    "mode.toggle",
    "mode.auto",
    "configuration",
    "reload",
    "reload.outcome",
    "events",
    "capture",
];

/// A request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Request {
    /// Always "2.0".
    pub jsonrpc: String,
    /// What is wanted.
    pub method: String,
    /// With which parameters.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// Comes back in the answer; a request without one is not answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// Why a request failed (JSON-RPC 2.0, 5.1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// The kind of failure.
    pub code: i64,
    /// What to tell a person.
    pub message: String,
    /// What to tell a program besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl ToString) -> Self {
        Self { code, message: message.to_string(), data: None }
    }

    pub(super) fn unknown_method(method: &str) -> Self {
        let known = METHODS.join(", ");
        Self::new(-32601, format!("there is no method '{}', but {known}", method.escape_debug()))
    }

    pub(super) fn invalid_params(message: impl ToString) -> Self {
        Self::new(-32602, message)
    }

    pub(super) fn too_long(limit: usize) -> Self {
        Self::new(-32600, format!("a request has at most {limit} bytes"))
    }

    pub(super) fn too_many_listen(limit: usize) -> Self {
        Self::new(-32000, format!("{limit} clients listen to events already, and no more can: end one of them"))
    }

    pub(super) fn cannot_capture(why: impl ToString) -> Self {
        Self::new(-32000, why)
    }

    pub(super) fn no_memory_to_capture(error: io::Error) -> Self {
        Self::cannot_capture(format!("there is no memory for the capture: {error}"))
    }

    /// An order failed for some lanes (each with the reason) and was carried out for others.
    pub(super) fn order_failed(failed: &[(String, String)], done: &[String]) -> Self {
        let ids: Vec<_> = failed.iter().map(|(id, _)| id.as_str()).collect();
        let mut message = failed.first().map_or_else(String::new, |(_, reason)| reason.clone());
        if let [_, others @ ..] = ids.as_slice()
            && !others.is_empty()
        {
            message += &format!("; failed too: {}", others.join(", "));
        }
        if !done.is_empty() {
            message += &format!("; done: {}", done.join(", "));
        }
        Self { data: Some(json!({ "failed": ids, "done": done })), ..Self::new(-32000, message) }
    }
}

/// A line with a request for `method`.
#[must_use]
pub fn call(method: &str, params: Value) -> String {
    let request = Request { jsonrpc: "2.0".into(), method: method.into(), params, id: Some(1.into()) };
    serde_json::to_string(&request).unwrap_or_default() + "\n"
}

/// The result in an answer.
///
/// # Errors
/// When the answer tells of a failure or is none.
pub fn parse_answer(line: &str) -> Result<Value, RpcError> {
    #[derive(Deserialize)]
    struct Answer {
        result: Option<Value>,
        error: Option<RpcError>,
    }
    let parsed = serde_json::from_str::<Answer>(line);
    match parsed {
        Ok(Answer { error: Some(error), .. }) => Err(error),
        Ok(Answer { result: Some(result), .. }) => Ok(result),
        _ => Err(RpcError::new(-32700, format!("this is no answer: {line}"))),
    }
}

/// Answers one line: the line to send back, if the request wants one.
pub(super) fn answer(line: &[u8], methods: impl FnOnce(&Request) -> Result<Value, RpcError>) -> Option<String> {
    let (id, result) = match serde_json::from_slice::<Value>(line) {
        Err(e) => (Value::Null, Err(RpcError::new(-32700, format!("this is no JSON: {e}")))),
        Ok(value) => match serde_json::from_value::<Request>(value) {
            Ok(request) if request.jsonrpc == "2.0" => {
                let result = methods(&request);
                (request.id?, result)
            }
            _ => (Value::Null, Err(RpcError::new(-32600, "this is no JSON-RPC 2.0 request"))),
        },
    };
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string() + "\n",
        Err(error) => failure(&id, &error),
    })
}

/// A line that tells of something that nobody asked for just now.
pub(super) fn notification(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string() + "\n"
}

/// The line that tells of a failure.
pub(super) fn failure(id: &Value, error: &RpcError) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Option<String> {
        answer(line.as_bytes(), |request| match request.method.as_str() {
            "echo" => Ok(request.params.clone()),
            other => Err(RpcError::unknown_method(other)),
        })
    }

    #[test]
    fn requests_are_answered_by_the_book() {
        assert_eq!(parse_answer(&ask(&call("echo", json!([1]))).unwrap()), Ok(json!([1])));
        assert_eq!(parse_answer(&ask(&call("nothing", Value::Null)).unwrap()).unwrap_err().code, -32601);
        assert_eq!(parse_answer(&ask("{").unwrap()).unwrap_err().code, -32700);
        for bad in ["[]", "1", "{}", r#"{"jsonrpc":"1.0","method":"echo","id":1}"#, r#"{"jsonrpc":"2.0","id":1}"#] {
            assert_eq!(parse_answer(&ask(bad).unwrap()).unwrap_err().code, -32600, "{bad}");
        }
        assert_eq!(ask(r#"{"jsonrpc":"2.0","method":"echo"}"#), None, "a notification has no answer");
    }
}
