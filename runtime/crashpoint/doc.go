// Package crashpoint gives names to the boundaries of work: the instants at which a death of the process, or an error of the kernel or
// of a tool, must do no harm. It is test equipment, and neutral: engines and agent import it, and it imports nothing of theirs.
//
// Without the build tag "faults" there is nothing in it: Enabled is false, and the functions are empty and inlined away. With the tag,
// a test that sets the environment variable PHONEHOST_FAULTS to a directory may
//
//   - have every arrival at a point noted, which tells it what points an operation passes, new ones too;
//   - end the process by SIGKILL at the n-th arrival at a point;
//   - have the n-th and some later arrivals at a point that can fail answered with an error;
//   - hold the n-th arrival at a point, while the test does something to the world.
//
// The test writes what is to happen into the file "plan" of that directory, whenever it likes; the file is read at every arrival. Each
// line is ACTION NAME FROM COUNT, where ACTION is record, kill, fail or hold, and arrivals are counted from 1 on, from when the file was
// written. A line that begins with # means nothing, and makes one plan differ from the next.
//
//	plan      what is to happen; a kill removes it first, so that the next process lives
//	reached   the names of the points that were passed, one a line (record); behind those that can fail stands "fallible"
//	held      the names of the points that were held, until the plan changed (hold)
//	failed    the names of the points that failed (fail)
//
// A name is a path such as "step/start/before" or "volume/truncated". Names are unique for a place in the code, not for an arrival.
package crashpoint
