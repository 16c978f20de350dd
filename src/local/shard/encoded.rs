//! One thing for many clients: made once for each dialect that any of them speaks.

use std::cell::OnceCell;

use bytes::Bytes;

use crate::protocol::Dialect;

/// The bytes for each dialect, made when they are first needed.
#[derive(Default)]
pub(crate) struct Encoded([OnceCell<Bytes>; Dialect::COUNT]);

impl Encoded {
    pub(crate) fn get(&self, dialect: Dialect, encode: impl FnOnce(Dialect) -> Bytes) -> Bytes {
        self.borrow(dialect, encode).clone()
    }

    pub(crate) fn borrow(&self, dialect: Dialect, encode: impl FnOnce(Dialect) -> Bytes) -> &Bytes {
        self.0[dialect.index()].get_or_init(|| encode(dialect))
    }
}
