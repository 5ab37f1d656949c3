// Package applist says what lists of apps mean: which packages a phone may install, launch, and let into the network.
//
// A List is of one Mode. Under Deny the packages that it names are denied, under Allow all others are, but for those that came with the
// phone's image: Allow never restricts these, Deny may. An entry is the name of a package or a pattern:
//
//	com.example.game    this package and no other
//	com.example.*       every package whose name begins with "com.example.", at any depth; not com.example itself, not com.examples
//
// Names are compared byte by byte, as Android does: com.Example is another package than com.example.
//
// The question is asked in two ways, and each has its answer here:
//
//	by name      when an app is installed or updated: List.Decide, and for the kernel Compile, whose Names are a trie
//	by app id    when a process takes an app's uid, and when it uses the network: Verdicts, whose Apps are a table by app id
//
// Decide defines what a list means. Names.Judge and Apps.Judge walk what is compiled as the kernel's programs do; tests hold them against
// Decide. Explain puts the answers of all three into words.
//
// # From names to app ids
//
// A phone's table of packages (netpolicy/packages) says which app id a package has. That is not always one package's:
//
//   - Packages that share an id (sharedUserId) are denied together if one of them is. Apps.Err refuses such a list, naming them; whoever
//     accepts it leaves the error out. One that comes about later, by an installation, is denied all the same: else an author could take a denied app
//     past its list by another app of the same id. Under Allow an id that one of the image's packages has is never denied.
//   - Ids below 10000 are the system's. They are never denied, so what a list says of a package there holds for its installation and its
//     updates only; Apps.Warnings names them.
//   - An SDK sandbox is judged as its app. Isolated processes tell nothing of theirs and pass, unless the list denies them all; whose app
//     is denied has none, for an app starts its own.
//   - An id that the table does not have is that of an app which was installed a moment ago. Under Deny it passes, and whoever
//     loads the table reports it; under Allow it is denied. Before the first complete table of a phone's data it passes under both: a phone that boots for
//     the first time has no list of packages yet, and its launcher has to start.
//
// The package does no I/O and keeps no state; its values may be shared once they are made.
package applist
