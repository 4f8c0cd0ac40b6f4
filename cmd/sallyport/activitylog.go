package main

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var eventColumns = []output.Column{{Heading: "EventTimestamp", Path: "eventTimestamp"}, {Heading: "Operation", Path: "operationName.localizedValue"}, {Heading: "Status", Path: "status.localizedValue"},
	{Heading: "Caller", Path: "caller"}, {Heading: "ResourceGroup", Path: "resourceGroupName"}}

func (a *app) monitor() *cobra.Command {
	return a.noun("monitor", "See what happened on the control API.",
		a.noun("activity-log", "See who changed what.", a.activityLogList()))
}

func (a *app) activityLogList() *cobra.Command {
	var terms, fields []string
	var start, end, offset string
	var most int
	filters := map[string]*string{"correlation-id": new(string), "resource-group": new(string), "resource-id": new(string), "namespace": new(string), "caller": new(string), "status": new(string)}
	return a.command(spec{
		use: "list", short: "List the activity log, the newest first.",
		long:    "List the activity log, the newest first: of the last 6 hours, unless a time is given.",
		example: "sallyport monitor activity-log list --resource-group rg-1 --offset 1d -o table",
		flags: func(f *flags) {
			f.text(filters["correlation-id"], "correlation-id", "", "Correlation ID to query.")
			f.text(filters["resource-group"], "resource-group", "g", "Resource group to query.")
			f.complete("resource-group", a.groupNames)
			f.text(filters["resource-id"], "resource-id", "", "ARM ID of a resource, with what lies below it.")
			f.text(filters["namespace"], "namespace", "", "Resource provider namespace.")
			f.alias("namespace", "resource-provider", "")
			f.text(filters["caller"], "caller", "", "Caller to query for, such as an object id.")
			f.text(filters["status"], "status", "", "Accepted, Succeeded or Failed.")
			f.text(&start, "start-time", "", "Start of the time range (yyyy-mm-ddThh:mm:ssZ).")
			f.text(&end, "end-time", "", "End of the time range. Default: now.")
			f.text(&offset, "offset", "", "Length of the time range, such as 90m, 6h or 7d. Default: 6h.")
			f.IntVar(&most, "max-events", 50, "Maximum number of records to return.")
			f.many(&fields, "select", "", "Space-separated list of properties to return.")
		},
		columns: eventColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			from, to, err := timeRange(start, end, offset, time.Now())
			if err != nil {
				return nil, err
			}
			if most < 1 {
				return nil, usagef("argument --max-events: it must be at least 1")
			}
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			terms = []string{"eventTimestamp ge " + from.UTC().Format(time.RFC3339), "eventTimestamp le " + to.UTC().Format(time.RFC3339Nano)}
			for argument, name := range map[string]string{"correlation-id": "correlationId", "resource-group": "resourceGroupName", "resource-id": "resourceId",
				"namespace": "resourceProvider", "caller": "caller", "status": "status"} {
				if v := *filters[argument]; v != "" {
					terms = append(terms, name+" eq "+odata(v))
				}
			}
			query := url.Values{"$filter": {strings.Join(terms, " and ")}}
			if len(fields) > 0 {
				query.Set("$select", strings.Join(fields, ","))
			}
			list := []any{}
			for raw, err := range a.arm.Pages(ctx, "/subscriptions/"+sub+"/providers/Microsoft.Insights/eventtypes/management/values?"+query.Encode(), client.InsightsVersion) {
				if err != nil {
					return nil, err
				}
				v, err := whole(raw)
				if err != nil {
					return nil, err
				}
				if list = append(list, v); len(list) == most {
					break
				}
			}
			return list, nil
		},
	})
}

// timeRange is what the three arguments mean together.
func timeRange(start, end, offset string, now time.Time) (from, to time.Time, err error) {
	long := 6 * time.Hour
	if offset != "" {
		days, isDays := strings.CutSuffix(offset, "d")
		if n, err := strconv.Atoi(days); isDays && err == nil {
			long = time.Duration(n) * 24 * time.Hour
		} else if long, err = time.ParseDuration(offset); err != nil {
			return from, to, usagef("argument --offset: '%s' is not a length of time like 90m, 6h or 7d", offset)
		}
		if long <= 0 {
			return from, to, usagef("argument --offset: it must be above 0")
		}
	}
	to = now
	if end != "" {
		if to, err = timeOf("--end-time", end); err != nil {
			return from, to, err
		}
	}
	if from = to.Add(-long); start == "" {
		return from, to, nil
	}
	if from, err = timeOf("--start-time", start); err != nil {
		return from, to, err
	}
	if end == "" && offset != "" {
		to = from.Add(long)
	}
	return from, to, nil
}

func timeOf(argument, s string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("argument %s: '%s' is not a time like 2026-11-29T08:30:00Z", argument, s)
}
