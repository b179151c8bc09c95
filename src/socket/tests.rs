//! The server on a real socket, with a view of the test's own making.
