package app

// Intent is what a process is asked to do.
type Intent struct {
	// ID is repeated in the answer.
	ID int `json:"id"`
	// Kind is "activity", "service" or "broadcast".
	Kind string `json:"kind"`
	// Package and Class are the component; the class is a full name.
	Package string `json:"package"`
	Class   string `json:"class"`
	// Extras are the values given with --es, --ei, --ez as texts.
	Extras map[string]string `json:"extras,omitempty"`
}

// Message is what a process says.
type Message struct {
	// Error is why the process could not begin.
	Error string `json:"error,omitempty"`
	// Attached says that the process has begun.
	Attached bool `json:"attached,omitempty"`
	// Done is the ID of an intent that is carried out; Code and Data are its result, -1 for a success as Android's RESULT_OK.
	Done int    `json:"done,omitempty"`
	Code int    `json:"code,omitempty"`
	Data string `json:"data,omitempty"`
	// StartService is the class of a service that the process asks for.
	StartService string `json:"start_service,omitempty"`
}

// The classes of an app's built-in components, without the package.
const (
	Net      = ".Net"
	Loop     = ".Loop"
	Spawn    = ".Spawn"
	Worker   = ".Worker"
	Isolated = ".Isolated"
)

// Results of an intent, Android's Activity.RESULT_OK and RESULT_CANCELED.
const (
	ResultOK       = -1
	ResultCanceled = 0
)
