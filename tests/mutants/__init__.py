"""Would a test notice? Small changes of the package are tried against the tests that reach them."""
