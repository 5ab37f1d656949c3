// Package paint draws testphone's screen into memory: moving discs, a clock, the status bar, the frame counter, what was typed, and a mark
// under every finger.
//
// It draws incrementally: a picture is a list of elements over a fixed background; each frame finds the rectangles in which an element has
// changed or moved, restores the background there and draws every element again, clipped to the rectangle. So a rectangle is complete in
// itself, and rectangles may overlap. The caller copies them to wherever the picture is shown.
//
// A Painter is used by one goroutine. Time comes in as an argument; nothing here reads a clock.
package paint
