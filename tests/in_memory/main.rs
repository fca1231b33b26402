//! Recorded and handmade oplogs through the producer's encoder and the consumer's plan into the
//! model of a server, all in this process: no ports, no programs.

mod avro_events;
mod format_examples;
mod handmade;
mod recorded;
mod updates;
