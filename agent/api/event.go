package api

import (
	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/event"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// NewEventServer returns EventService over the journal.
func NewEventServer(journal *event.Journal) phonehostv1.EventServiceServer {
	return &eventServer{journal: journal}
}

type eventServer struct {
	phonehostv1.UnimplementedEventServiceServer
	journal *event.Journal
}

func (s *eventServer) Watch(q *phonehostv1.EventServiceWatchRequest, stream grpc.ServerStreamingServer[phonehostv1.EventServiceWatchResponse]) error {
	opts := event.WatchOptions{
		After: q.GetAfterSeq(), OnlyNew: q.GetOnlyNew(), PhoneID: q.GetPhoneId(), NoFollow: q.GetNoFollow(),
	}
	return statusError(s.journal.Watch(stream.Context(), opts, func(events []event.Event) error {
		m := &phonehostv1.EventServiceWatchResponse{Events: make([]*phonehostv1.Event, 0, len(events))}
		for _, e := range events {
			m.Events = append(m.Events, eventToProto(e))
		}
		return stream.Send(m)
	}))
}
