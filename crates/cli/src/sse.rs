//! Parses server-sent events, as far as the API uses them.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For `Last-Event-ID`, to resume after this event.
    pub id: Option<i64>,
    pub data: String,
}

/// Puts lines together to events.
#[derive(Default)]
pub struct Messages {
    id: Option<i64>,
    data: Vec<String>,
}

impl Messages {
    /// Takes a line without its end; gives the event that an empty line completes.
    pub fn line(&mut self, line: &[u8]) -> Option<Message> {
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            let (id, data) = (self.id.take(), std::mem::take(&mut self.data));
            return (!data.is_empty()).then(|| Message { id, data: data.join("\n") });
        }
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = value.parse().ok(),
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
        let text =
            ": alive\n\nid: 7\nevent: task.running\ndata: {\"a\":\ndata:1}\n\nretry: 10\n\ndata: x\n\n";
        let seen: Vec<_> = text.lines().filter_map(|line| messages.line(line.as_bytes())).collect();
        assert_eq!(
            seen,
            [
                Message { id: Some(7), data: "{\"a\":\n1}".to_owned() },
                Message { id: None, data: "x".to_owned() }
            ]
        );
    }
}
