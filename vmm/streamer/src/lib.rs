//! The streamer: moves the state and the RAM of a virtual machine between it and files.
