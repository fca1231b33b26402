//! Bulk writes to the target: sending, retries, bisection, and the handling of replies.

pub(crate) mod bulk;
pub(crate) mod bypass;
pub(crate) mod command_error;
pub(crate) mod equal_id;
pub(crate) mod find;
pub(crate) mod limits;
pub(crate) mod outcome;
pub(crate) mod reply;
pub(crate) mod rewrite;
pub(crate) mod turn;
pub(crate) mod unchanged;
