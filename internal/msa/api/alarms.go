package api

import (
	"context"
	"fmt"
	"net/http"

	v1 "holdfast/api"
	"holdfast/internal/errs"
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/auth"
	"holdfast/internal/msa/db"
)

func (s *server) registerAlarms() {
	get := func(id, path, summary string, may auth.Permission) operation {
		return operation{ID: id, Method: http.MethodGet, Path: path, Tag: "alarms", Summary: summary, May: may}
	}
	add(s, get("list-alarms", "/alarms", "List alarms that hold, the newest first", auth.AlarmRead), s.listAlarms)
	add(s, operation{ID: "acknowledge-alarm", Method: http.MethodPost, Path: "/alarms/acknowledge", Tag: "alarms", May: auth.AlarmWrite, Change: true,
		Status: http.StatusNoContent, Summary: "Say that you know of an alarm"}, s.acknowledge)
	add(s, get("list-alarm-events", "/alarm-events", "List what happened, the newest first", auth.AlarmRead), s.listAlarmEvents)
	add(s, get("list-alarm-codes", "/alarm-codes", "Every event there is, with what it means and what to do", ""), s.listAlarmCodes)
	add(s, get("list-outlets", "/outlets", "List outlets, and how they do", auth.AlarmRead), s.listOutlets)
	add(s, get("get-outlet", "/outlets/{name}", "Read an outlet", auth.AlarmRead), s.getOutlet)
	put := operation{ID: "put-outlet", Method: http.MethodPut, Path: "/outlets/{name}", Tag: "alarms", May: auth.AlarmAdmin, Change: true, Summary: "Make or change an outlet"}
	put.Detail = "A new one has no version; to change one, send the version that was read. Its secret is stored apart, and named."
	add(s, put, s.putOutlet)
	add(s, operation{ID: "delete-outlet", Method: http.MethodDelete, Path: "/outlets/{name}", Tag: "alarms", May: auth.AlarmAdmin, Change: true,
		Status: http.StatusNoContent, Summary: "Delete an outlet, and what waits there"}, s.deleteOutlet)
	add(s, operation{ID: "test-outlet", Method: http.MethodPost, Path: "/outlets/{name}/test", Tag: "alarms", May: auth.AlarmAdmin, Change: true,
		Status: http.StatusNoContent, Summary: "Send a test to an outlet", Detail: "It is sent in a moment; see how the outlet does then."}, s.testOutlet)
}

type alarmsIn struct {
	Paging
	All bool `query:"all" doc:"Also those that do not hold any more"`
}

func (s *server) listAlarms(ctx context.Context, in *alarmsIn) (*listOut[v1.Alarm], error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	var place alarm.Cursor
	if err := placeIn(after, &place); err != nil {
		return nil, err
	}
	out := &listOut[v1.Alarm]{v1.Page[v1.Alarm]{Items: []v1.Alarm{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		page, next, err := alarm.List(ctx, tx, in.All, place, in.Limit)
		for _, a := range page {
			d, _ := alarm.Of(a.Code)
			out.Body.Items = append(out.Body.Items, v1.Alarm{
				Code: string(a.Code), Object: a.Object, Severity: string(a.Severity), Words: d.Words, Remedy: d.Remedy, Detail: a.Detail, Count: a.Count,
				Raised: a.Raised, Cleared: timeIf(a.Cleared), Acknowledged: timeIf(a.Acknowledged), By: a.By, Note: a.Note,
			})
		}
		out.Body.Next = placeOf(next)
		return err
	})
}

type acknowledgeIn struct{ Body v1.Acknowledge }

func (s *server) acknowledge(ctx context.Context, in *acknowledgeIn) (*nothingOut, error) {
	b := in.Body
	return change(ctx, s, db.Text("alarm "+b.Code+" "+b.Object, maxAnswer), func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, alarm.Acknowledge(ctx, tx, alarm.Code(b.Code), b.Object, by(ctx), b.Note)
	})
}

type eventsPageIn struct{ Paging }

func (s *server) listAlarmEvents(ctx context.Context, in *eventsPageIn) (*listOut[alarm.Event], error) {
	before, err := in.after()
	if err != nil {
		return nil, err
	}
	out := &listOut[alarm.Event]{v1.Page[alarm.Event]{Items: []alarm.Event{}}}
	return out, s.view(ctx, func(tx *db.Tx) error {
		page, next, err := alarm.Events(ctx, tx, before, in.Limit)
		out.Body.Items = append(out.Body.Items, page...)
		if next != "" {
			out.Body.Next = cursor(next)
		}
		return err
	})
}

func (s *server) listAlarmCodes(context.Context, *none) (*every[alarm.Definition], error) {
	return everyOf(alarm.Table()), nil
}

func outletState(o alarm.Outlet, x alarm.Standing) v1.OutletState {
	return v1.OutletState{Outlet: o, Sent: x.Sent, Dropped: x.Dropped, Pending: x.Pending, Failures: x.Failures, Error: x.Error, Last: timeIf(x.Last)}
}

func (s *server) listOutlets(ctx context.Context, _ *none) (*every[v1.OutletState], error) {
	var list []v1.OutletState
	err := s.view(ctx, func(tx *db.Tx) error {
		all, err := alarm.Outlets(ctx, tx)
		for _, o := range all {
			o, x, err := alarm.GetOutlet(ctx, tx, o.Name)
			if err != nil {
				return err
			}
			list = append(list, outletState(o, x))
		}
		return err
	})
	return everyOf(list), err
}

func (s *server) getOutlet(ctx context.Context, in *NameIn) (*item[v1.OutletState], error) {
	return read(ctx, s, func(tx *db.Tx) (v1.OutletState, error) {
		o, x, err := alarm.GetOutlet(ctx, tx, in.Name)
		return outletState(o, x), err
	})
}

type outletIn struct {
	NameIn
	Body alarm.Outlet
}

func (s *server) putOutlet(ctx context.Context, in *outletIn) (*item[alarm.Outlet], error) {
	if in.Body.Name != in.Name {
		return nil, errs.New("api", errs.Invalid, "outlet "+in.Name, fmt.Sprintf("the body is of %q", db.Text(in.Body.Name, 100))).
			WithRemedy("a name never changes: send the same one in path and body")
	}
	return change(ctx, s, "outlet "+in.Name, func(tx *db.Tx) (*item[alarm.Outlet], error) {
		o := in.Body
		err := alarm.PutOutlet(ctx, tx, &o, by(ctx))
		return &item[alarm.Outlet]{o}, err
	})
}

func (s *server) deleteOutlet(ctx context.Context, in *NameIn) (*nothingOut, error) {
	return change(ctx, s, "outlet "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		err := alarm.DeleteOutlet(ctx, tx, in.Name, 0, by(ctx))
		if errs.Is(err, errs.NotFound) {
			err = nil // it is gone, as was asked for
		}
		return &nothingOut{}, err
	})
}

func (s *server) testOutlet(ctx context.Context, in *NameIn) (*nothingOut, error) {
	return change(ctx, s, "outlet "+in.Name, func(tx *db.Tx) (*nothingOut, error) {
		return &nothingOut{}, alarm.TestOutlet(ctx, tx, in.Name, by(ctx))
	})
}
