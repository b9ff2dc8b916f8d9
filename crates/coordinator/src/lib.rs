//! Decides: journal, API, agents' connections.
