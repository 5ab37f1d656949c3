package packages

// Android's uids (system/core/libcutils/include/private/android_filesystem_config.h, AID_*).
const (
	// UsersApart is how far the uids of one Android user lie from those of the next: a uid is user*UsersApart + app id.
	UsersApart = 100_000

	// FirstApp and LastApp are the app ids of apps, the image's among them. Below are the system's own, such as 1000.
	FirstApp = 10_000
	LastApp  = 19_999
	// SandboxOffset is what lies between an app's id and that of its SDK sandbox.
	SandboxOffset = 10_000
	// FirstIsolated and LastIsolated are the ids of isolated processes: those of app zygotes, up to 98999, and others. They tell nothing
	// of the package that they belong to.
	FirstIsolated = 90_000
	LastIsolated  = 99_999
)

// Kind is what sort of process has an app id.
type Kind uint8

// The kinds.
const (
	// System: 0..9999. Several of the system's packages share one of these, and so do its daemons.
	System Kind = iota
	// App: 10000..19999.
	App
	// Sandbox: 20000..29999, the process in which the SDKs of the app with the id less SandboxOffset run.
	Sandbox
	// Isolated: 90000..99999.
	Isolated
	// Other: 30000..89999, ids of groups and of nobody.
	Other
)

// String is the kind in words.
func (k Kind) String() string {
	switch k {
	case System:
		return "system"
	case App:
		return "app"
	case Sandbox:
		return "SDK sandbox"
	case Isolated:
		return "isolated"
	}
	return "other"
}

// SplitUID returns the Android user and the app id of a uid.
func SplitUID(uid uint32) (user, appID uint32) { return uid / UsersApart, uid % UsersApart }

// KindOf returns the kind of the processes that have an app id. A uid of any user is taken for its app id.
func KindOf(appID uint32) Kind {
	switch appID %= UsersApart; {
	case appID < FirstApp:
		return System
	case appID <= LastApp:
		return App
	case appID <= LastApp+SandboxOffset:
		return Sandbox
	case appID >= FirstIsolated:
		return Isolated
	}
	return Other
}

// Owner returns the app id by which a process with a uid is judged: that of its app, for an SDK sandbox too. The others have their own.
func Owner(uid uint32) uint32 {
	_, appID := SplitUID(uid)
	if KindOf(appID) == Sandbox {
		return appID - SandboxOffset
	}
	return appID
}
