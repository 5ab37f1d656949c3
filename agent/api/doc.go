// Package api serves phonehost.v1: it checks requests, turns messages into the words of the packages that do the work, and their
// answers and errors back. It decides nothing about phones, streams or images, and holds no state of its own.
//
// Every error leaves through statusError, the one mapping of classes and reasons to gRPC statuses; docs/api.md lists the reasons.
// Server assembles the services, the standard health service and reflection into one grpc.Server that all doors share.
package api
