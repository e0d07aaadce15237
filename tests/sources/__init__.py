"""Tests of the sources: real sockets on 127.0.0.1, no internet."""
