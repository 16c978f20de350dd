//! The marks of ids, `pn:kept:{<user>}:<id>` and `pn:logkept:{<topic>}:<id>`: what becomes of one
//! after it was found, or was set for nothing.
//!
//! What must stay true: a mark stays only if the message of its id is in the inbox. It is removed
//! only where that is proven not to be so, and never the one that another node has set since.

use fred::error::Error;
use fred::prelude::{Client, ClientLike, Expiration, KeysInterface, SetOptions, StreamsInterface};
use fred::types::{CustomCommand, Value};

use crate::backplane::answers::Kept;
use crate::backplane::redis::servers::errors::redacted;
use crate::backplane::redis::servers::{exec, queue};

/// The value of a mark: the message is in the inbox.
pub(super) const IS_KEPT: &str = "kept";
/// How Redis refuses an entry to a key that holds no stream.
const WRONG_TYPE: &str = "WRONGTYPE";
/// How it refuses one to a stream whose newest entry has the last of all names.
const EXHAUSTED: &str = "ERR The stream has exhausted";

/// Begins to watch the mark of an id, and answers what it says. If the inbox is no stream, that is
/// refused here: a MULTI would set the mark all the same, and none but this attempt would remove
/// it, whose time may end first.
pub(super) async fn look_for_mark(
    client: &Client,
    inbox: &str,
    key: &str,
) -> Result<Option<String>, Error> {
    let pipeline = client.pipeline();
    watch(&pipeline, key).await?;
    let _: () = pipeline.get(key).await?;
    let _: () = pipeline.xlen(inbox).await?;
    let answers = pipeline.try_all::<Value>().await;
    match answers.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(answers) => answers.into_iter().nth(1).unwrap_or(Value::Null).convert(),
        Err(error) => {
            if error.details().starts_with(WRONG_TYPE) {
                let pipeline = client.pipeline();
                queue(&pipeline, "UNWATCH").await?;
                let _: Vec<Value> = pipeline.all().await?;
            }
            Err(error)
        }
    }
}

/// Begins to watch a key, as the next command of a pipeline.
async fn watch(pipeline: &fred::clients::Pipeline<Client>, key: &str) -> Result<(), Error> {
    let watch = CustomCommand::new_static("WATCH", None, false);
    pipeline.custom(watch, vec![key]).await
}

/// The mark is there: the message was kept before. `renews` if its connection is to wait for
/// replicas of it.
pub(super) async fn kept_before(client: &Client, key: &str, renews: bool) -> Result<Kept, Error> {
    let pipeline = client.pipeline();
    queue(&pipeline, "UNWATCH").await?;
    if renews {
        // WAIT asks for what its own connection wrote: now that is something after the message.
        let stays = Some(Expiration::KEEPTTL);
        let _: () = pipeline
            .set(key, IS_KEPT, stays, Some(SetOptions::XX), false)
            .await?;
    }
    let _: Vec<Value> = pipeline.all().await?;
    Ok(Kept::Before)
}

/// Redis has refused the message with this error. It carries out the rest of a MULTI all the same,
/// and so may have set the mark. Without this, a retry would be taken for a repeat.
pub(super) async fn unmark(client: &Client, inbox: &str, key: &str, refusal: &Error) {
    if let Err(error) = unmark_refused(client, inbox, key, refusal).await {
        tracing::debug!(error = %redacted(&error), "mark of a refused message not removed");
    }
}

async fn unmark_refused(
    client: &Client,
    inbox: &str,
    key: &str,
    refusal: &Error,
) -> Result<(), Error> {
    let pipeline = client.pipeline();
    watch(&pipeline, key).await?;
    let _: () = pipeline.xlen(inbox).await?;
    let mut answers = pipeline.try_all::<Value>().await.into_iter();
    let is_stream = match answers.next_back() {
        Some(Err(error)) if error.details().starts_with(WRONG_TYPE) => false,
        Some(Err(error)) => return Err(error),
        _ => true,
    };
    let pipeline = client.pipeline();
    // If only the number was refused, the message is there, and must not be without its mark.
    if is_stream && !refusal.details().starts_with(EXHAUSTED) {
        queue(&pipeline, "UNWATCH").await?;
        return pipeline.all::<Vec<Value>>().await.map(drop);
    }
    queue(&pipeline, "MULTI").await?;
    // At once. Access rules allow nodes no DEL of marks.
    let _: () = pipeline.expire(key, 0, None).await?;
    exec(&pipeline).await.map(drop)
}
