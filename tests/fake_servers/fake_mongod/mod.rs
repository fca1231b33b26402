//! The model target: its commands one by one, whole histories of a real server, and the official
//! driver.

mod commands;
mod driver;
mod history;
