"""Tests of pages in a browser. A package, so that the browser ends after the last test."""
