// Package barcode is what machines read on testphone's screen: a strip that carries the number of the frame, the marks under the fingers,
// and the colour bars. The screen draws by these rules and tests read by them, from a screenshot or a decoded frame of any size.
//
// # The strip
//
// The top rows of every frame, 1/80 of the height and at least 8 pixels, are divided into 48 cells of equal width, white for 1 and black
// for 0, from left to right:
//
//	4 cells   1100                     start
//	32 cells  frame number             most significant bit first
//	8 cells   CRC-8 (polynomial 0x07)  of the number's four bytes, most significant first
//	4 cells   0101                     end
//
// The frame number counts the frames that the screen has committed since its process started; the first is 1.
//
// # The marks
//
// A finger with the id N is a disc in the colour Color(N) with a white ring around it, centred on the finger, Radius pixels from the
// centre to the outside of the ring. The other things on the screen are too pale or too dark to be taken for a disc.
//
// Everything is computed from its arguments; all functions may be called concurrently.
package barcode
