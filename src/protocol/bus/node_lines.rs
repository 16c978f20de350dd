//! Lines that nodes say about themselves, as they are written: headers, probes, receipts, orders.

use serde::Serialize;

use crate::protocol::bus::line::{Announcement, Line, VERSION};
use crate::protocol::ids::NodeId;
use crate::protocol::json::to_json;
use crate::protocol::outcome::DeliveryReport;
use crate::protocol::session_id::SessionId;

/// The header line of a node's payload, without line break.
#[must_use]
pub fn header_line(from: &NodeId, seq: u64) -> String {
    format!("{{\"v\":{VERSION},\"from\":\"{from}\",\"seq\":{seq}}}")
}

/// A payload that holds nothing but the number of the one before it.
#[must_use]
pub fn tail_payload(from: &NodeId, seq: u64) -> String {
    format!("{{\"v\":{VERSION},\"from\":\"{from}\",\"seq\":{seq},\"tail\":true}}")
}

/// An announcement as a payload.
#[must_use]
pub fn announcement_payload(announcement: &Announcement) -> String {
    #[derive(Serialize)]
    struct Payload<'a> {
        v: u32,
        from: &'a NodeId,
        seq: u64,
        tail: bool,
        n: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        unwritten: Option<&'a str>,
    }
    to_json(&Payload {
        v: VERSION,
        from: &announcement.from,
        seq: 0,
        tail: true,
        n: announcement.n,
        unwritten: announcement.unwritten.as_deref(),
    })
}

/// The end of a session, as a line for a channel.
#[must_use]
pub fn revoke_line(session: SessionId) -> String {
    format!(r#"{{"cmd":"revoke","session":"{session}"}}"#)
}

/// A command to leave, as a line for a channel.
#[must_use]
pub fn drain_line() -> String {
    r#"{"cmd":"drain"}"#.to_owned()
}

/// A probe as a line for a channel.
#[must_use]
pub fn probe_line(n: u64) -> String {
    format!(r#"{{"cmd":"probe","n":{n}}}"#)
}

/// The number of a probe, if the payload is one and nothing else. Cheap for all others.
#[must_use]
pub fn as_probe(payload: &[u8]) -> Option<u64> {
    if !payload.starts_with(br#"{"cmd":"probe""#) {
        return None;
    }
    match Line::parse(payload) {
        Ok(Line::Probe(n)) => Some(n),
        _ => None,
    }
}

/// A receipt as a line for a channel.
#[must_use]
pub fn receipt_line(receipt: &DeliveryReport) -> String {
    #[derive(Serialize)]
    struct Command<'a> {
        cmd: &'static str,
        #[serde(flatten)]
        receipt: &'a DeliveryReport,
    }
    to_json(&Command {
        cmd: "receipt",
        receipt,
    })
}
