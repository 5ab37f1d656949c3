// Lets the timers of all threads be half a millisecond late. Go's monitor thread sleeps 20 microseconds at a time after Go code
// has begun to run, and so woke ten times a frame: a quarter of what a watched display takes besides encoding. Nothing else has
// a timer that short; frames are paced by 8 milliseconds and more.
#include <sys/prctl.h>

// This runs before Go starts a thread, and threads inherit what it sets.
__attribute__((constructor)) static void set_timer_slack(void) { prctl(PR_SET_TIMERSLACK, 500000); }
