//! What a client says: frames and objects, and what each of them does.
//!
//! What must stay true: a frame that answers nothing counts for `PUSH_CLIENT_RATE`, and after the
//! goodbye nothing counts but the close.

#[cfg(feature = "echo")]
use crate::local::connection::Role;
use crate::local::connection::timer_wheel::Tick;
use crate::local::connection::{Connection, Next, Settings};
use crate::protocol;
use crate::protocol::client::websocket::{self, Event};
use crate::protocol::close::CloseReason;
use crate::protocol::{ClientFault, ClientMessage, Dialect};

impl Connection {
    pub(super) fn hear_event(&mut self, event: &Event<'_>, settings: &Settings, now: Tick) -> Next {
        if self.is_closing() {
            return match event {
                Event::Close(_) => Next::Hangup,
                _ => Next::Stay,
            };
        }
        if let Event::Close(code) = event {
            self.close_code = *code;
            // RFC 6455, 5.5.1: answer with the code that came.
            self.queue.push(match code {
                Some(code) => websocket::close(*code, ""),
                None => websocket::close_without_code(),
            });
            return Next::End(CloseReason::ByClient);
        }
        #[cfg(feature = "echo")]
        if self.role == Role::Echo {
            match event {
                Event::Text(text) => self.queue.push(websocket::text(&[text.as_bytes()])),
                Event::Binary(payload) => self.queue.push(websocket::binary(payload)),
                Event::Ping(payload) => self.queue.push(websocket::pong(payload)),
                Event::Pong | Event::Close(_) => {}
            }
            return Next::Stay;
        }
        let said = match event {
            // An empty line is no object: some clients end a line twice.
            Event::Text("") if self.dialect == Dialect::Lines => None,
            Event::Text(text) if self.dialect.sends_objects() => Some(ClientMessage::parse(text)),
            // Many libraries send bytes where their caller meant text.
            Event::Binary(bytes) if self.dialect.sends_objects() => {
                Some(ClientMessage::parse_bytes(bytes))
            }
            _ => None,
        };
        let may_answer = match &said {
            Some(said) => said.as_ref().is_ok_and(ClientMessage::is_answer),
            None => matches!(event, Event::Pong),
        };
        if !(may_answer && self.spend_credit()) && self.is_too_fast(settings.client_rate, now) {
            return Next::End(CloseReason::TooFast);
        }
        match (said, event) {
            (Some(said), _) => self.hear_object(said, settings.send_rate),
            (None, Event::Ping(payload)) => self.queue.push(websocket::pong(payload)),
            (None, Event::Pong) => self.hear_pong(),
            // Other clients have nothing to say to us.
            (None, _) => {}
        }
        Next::Stay
    }

    fn hear_pong(&mut self) {
        self.heartbeat.answered();
        self.answered_ping();
    }

    fn hear_object(&mut self, said: Result<ClientMessage<'_>, ClientFault>, send_rate: u32) {
        match said {
            Ok(ClientMessage::Ping) => self.say(protocol::PONG),
            Ok(ClientMessage::Pong) => self.hear_pong(),
            Ok(ClientMessage::Ack(id)) => self.hear_ack(&id),
            Ok(ClientMessage::AckKept(position, id)) => self.hear_ack_kept(position, id.as_deref()),
            Ok(ClientMessage::Request(request)) => self.hear_request(request, send_rate),
            Ok(ClientMessage::Answer(answer)) => self.hear_answer(answer),
            Err(fault) => {
                let reference = fault.reference.as_deref();
                self.say(&protocol::error_object(
                    reference,
                    fault.code,
                    &fault.message,
                ));
            }
        }
    }
}
