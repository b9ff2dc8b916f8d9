//! QMP client, command line and the life of one VM.
