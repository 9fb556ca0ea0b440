//! The header's constants against the enums they stand for.

use super::*;
use crate::engine::{EventKind, FinishReason, LogLevel};
use crate::error::{Status, Unit};

/// The header must show literals, so they are written out above; here they are held to the Rust enums.
#[test]
fn constants_are_the_values_of_the_enums() {
    use Status::*;
    let statuses = [
        (ASTRAI_OK, Ok),
        (ASTRAI_TIMEOUT, Timeout),
        (ASTRAI_END, End),
        (ASTRAI_ERR_ARGUMENT, Argument),
        (ASTRAI_ERR_STRUCT_SIZE, StructSize),
        (ASTRAI_ERR_HANDLE, Handle),
        (ASTRAI_ERR_REENTRANT, Reentrant),
        (ASTRAI_ERR_BUSY, Busy),
        (ASTRAI_ERR_CLOSED, Closed),
        (ASTRAI_ERR_FORKED, Forked),
        (ASTRAI_ERR_ABORTED, Aborted),
        (ASTRAI_ERR_BUFFER, Buffer),
        (ASTRAI_ERR_IO, Io),
        (ASTRAI_ERR_FORMAT, Format),
        (ASTRAI_ERR_UNSUPPORTED, Unsupported),
        (ASTRAI_ERR_TEMPLATE, Template),
        (ASTRAI_ERR_UTF8, Utf8),
        (ASTRAI_ERR_CONTEXT, Context),
        (ASTRAI_ERR_MEMORY, Memory),
        (ASTRAI_ERR_QUEUE_FULL, QueueFull),
        (ASTRAI_ERR_MISMATCH, Mismatch),
        (ASTRAI_ERR_DEVICE, Device),
        (ASTRAI_ERR_INTERNAL, Internal),
    ];
    assert_eq!(statuses.map(|(_, status)| status), Status::ALL);
    for (constant, status) in statuses {
        assert_eq!(constant, status as i32, "{status:?}");
    }
    let units = [
        (ASTRAI_UNIT_NONE, Unit::None),
        (ASTRAI_UNIT_BYTES, Unit::Bytes),
        (ASTRAI_UNIT_TOKENS, Unit::Tokens),
        (ASTRAI_UNIT_COUNT, Unit::Count),
    ];
    assert!(units.iter().all(|(constant, unit)| *constant == *unit as i32));
    let kinds = [
        (ASTRAI_EVENT_DELTA, EventKind::Delta),
        (ASTRAI_EVENT_FINISHED, EventKind::Finished),
        (ASTRAI_EVENT_CANCELLED, EventKind::Cancelled),
        (ASTRAI_EVENT_FAILED, EventKind::Failed),
    ];
    assert!(kinds.iter().all(|(constant, kind)| *constant == *kind as i32));
    let reasons = [
        (ASTRAI_FINISH_NONE, FinishReason::None),
        (ASTRAI_FINISH_EOS, FinishReason::Eos),
        (ASTRAI_FINISH_STOP, FinishReason::Stop),
        (ASTRAI_FINISH_LENGTH, FinishReason::Length),
        (ASTRAI_FINISH_CANCEL, FinishReason::Cancel),
        (ASTRAI_FINISH_CALLBACK, FinishReason::Callback),
        (ASTRAI_FINISH_DEADLINE, FinishReason::Deadline),
        (ASTRAI_FINISH_CLOSE, FinishReason::Close),
        (ASTRAI_FINISH_ERROR, FinishReason::Error),
    ];
    assert!(reasons.iter().all(|(constant, reason)| *constant == *reason as i32));
    let levels = [
        (ASTRAI_LOG_OFF, LogLevel::Off),
        (ASTRAI_LOG_ERROR, LogLevel::Error),
        (ASTRAI_LOG_WARN, LogLevel::Warn),
        (ASTRAI_LOG_INFO, LogLevel::Info),
        (ASTRAI_LOG_DEBUG, LogLevel::Debug),
    ];
    assert!(levels.iter().all(|(constant, level)| *constant == *level as i32));
}
