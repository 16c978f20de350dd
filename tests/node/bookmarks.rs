//! `resume=server` on a node by itself.

use crate::common::bookmarks::{
    a_device_goes_on_where_it_has_read, a_stream_goes_on_where_its_device_has_read,
    what_cannot_be_remembered_is_refused,
};
use crate::common::node;

#[tokio::test]
async fn a_device_goes_on_where_it_has_read_here() {
    let node = node(&[]);
    a_device_goes_on_where_it_has_read(&node, &node, &node).await;
    a_stream_goes_on_where_its_device_has_read(&node, &node, &node).await;
    what_cannot_be_remembered_is_refused(&node).await;
}
