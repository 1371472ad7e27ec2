//! Parses server-sent events, as far as the API uses them.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For `Last-Event-ID`, to resume after this event.
    pub id: Option<i64>,
    /// Its data is a problem, after which the stream ends.
    pub is_error: bool,
    pub data: String,
}

/// Puts lines together to events.
#[derive(Default)]
pub struct Messages {
    id: Option<i64>,
    is_error: bool,
    data: Vec<String>,
}

impl Messages {
    /// Takes a line without its end; gives the event that an empty line completes.
    pub fn line(&mut self, line: &[u8]) -> Option<Message> {
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            let Messages { id, is_error, data } = std::mem::take(self);
            return (!data.is_empty()).then(|| Message { id, is_error, data: data.join("\n") });
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().ok(),
            "event" => self.is_error = value == "error",
            "data" => self.data.push(value.to_owned()),
            // A comment, which keeps the connection alive, or a field that we have no use for.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_completes_an_event() {
        let mut messages = Messages::default();
        let text = ": alive\n\nid: 7\nevent: task.running\ndata: {\"a\":\ndata:1}\n\nretry: 10\n\nevent: error\ndata: x\n\n";
        let seen: Vec<_> = text.lines().filter_map(|line| messages.line(line.as_bytes())).collect();
        assert_eq!(
            seen,
            [
                Message { id: Some(7), is_error: false, data: "{\"a\":\n1}".to_owned() },
                Message { id: None, is_error: true, data: "x".to_owned() }
            ]
        );
    }
}
