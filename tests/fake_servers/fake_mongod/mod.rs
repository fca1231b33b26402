//! The model target: single commands, whole histories of a real server, and the official driver.

mod commands;
mod driver;
mod history;
