// Package resolver is the phones' name server: it forwards what a phone's policy lets it ask, and opens the addresses that it gives out
// before it gives them out.
//
//	phone -> gateway:53 -> [rate] -> [which phone] -> [question] -> [policy] -> cache | upstreams -> [answer] -> names in the kernel -> phone
//
// It runs as a process of its own (phonehostd dns), which the agent's end does not touch. It has no state of its own: which phone asks it
// reads from the pinned maps of netpolicy/datapath, what the policies say from the files of State, which the agent writes. What it
// cannot find out it refuses: without the maps, without a phone's policy or without the list of protected addresses no name resolves.
//
// # What is asked
//
// One question of class IN with recursion desired. Transfers, other meta types, updates, notifications, other classes and names with
// escaped characters are refused, responses are not answered at all. ANY is answered by RFC 8482. Reverse names of private and protected
// addresses are refused; no other name is answered here. Of EDNS only the buffer size and the DO bit count; a phone's other options go
// nowhere, so that with a policy of names nothing but allowed names leaves. There is no validation of DNSSEC: DO goes to the
// upstreams and their records come back, AD is never set.
//
// # What is answered
//
// The name that is asked for must be one that the policy resolves (policy.Policy.Resolves). Of the names that its CNAME records lead to
// none may be denied by a rule; that no rule allows them does not matter, since who allows www.example.com means wherever it is served.
// An address is opened by all names of rules that stand for a name of that chain: a rule for the alias's target counts for those who come by the
// alias, be it one that allows or one that denies.
//
// Addresses that are protected are taken out of answers, unless a rule with a prefix opens them (no rebinding); an answer of which none
// is left is REFUSED: NXDOMAIN would be remembered of the name, and nobody would look further. Address hints of SVCB and HTTPS records
// are taken out too: the phone asks for the addresses of the target, which are judged then. What is not of the chain, and the
// additional section, is left out.
//
// An address is open for its TTL, at least 30 s and at most one hour, and 5 s more for the way. No TTL above an hour is handed out. What a hit of the
// cache gives out is opened for that phone as well.
//
// # What a flood can do
//
// Each address has its rate (100 questions in a second, 500 at once); what is beyond is not even decoded. Each phone has a bounded number of questions
// that wait for upstreams, and of connections. Denials are summed up by phone and name in tables of bounded size.
//
// # Taking over
//
// Servers listen with SO_REUSEPORT: a new one is there before the old one ends. One that ends (the context of Run) first makes the kernel
// give new packets to others: its UDP sockets are connected to nobody, which takes them out of the selection, and a new server's TCP
// socket has been preferred by a filter since it began. Then it answers what it has, and closes.
//
// A Server's goroutines belong to Run, which waits for all of them.
package resolver
