// Package codepages gives memory back that holds code and constants which ran once.
//
// Starting a Go program, binding a hundred libraries together and opening a codec touch megabytes that are never used again,
// and each display has them mapped. They are clean pages of files: given up, they stay in the page cache while there is room,
// and come back by a page fault where they are used. The package has no state and starts no goroutine.
package codepages

/*
void ph_forget_code(void);
*/
import "C"

// Forget unmaps the pages of all constant segments of the program and its libraries. What runs right after it faults: some
// hundred microseconds in all. It may be called from any goroutine.
func Forget() { C.ph_forget_code() }
