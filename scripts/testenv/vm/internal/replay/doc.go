// Package replay turns the output of a test process that runs elsewhere back into tests of this process.
//
// A Parser splits the output of a test binary, started with -test.v=test2json, into events: which test began, what it printed,
// how it ended. A Replay repeats these events as sub-tests of one test of this process while they arrive: same names, same
// output through T.Output, same failures and skips, parallel ones side by side. Neither knows machines.
//
// A Replay is written to by one goroutine at a time. It has one goroutine per sub-test, which lies in T.Run; Finish waits for all.
package replay
