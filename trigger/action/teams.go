package action

import (
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// Teams builds actions that write to a channel of Microsoft Teams, by a workflow
// that begins when a webhook request is received.
func Teams(client *Client) trigger.Builder {
	return chat{name: "Teams", body: teamsBody, advice: map[int]string{
		400: "the workflow does not understand the message: it must be one that posts an adaptive card",
		401: "the address lacks its signature: copy all of it",
		404: "the workflow was deleted or switched off: make a new one from the Workflows of the channel",
	}}.builder(client)
}

var teamsColors = map[mood]string{neutral: "default", good: "good", warning: "warning", bad: "attention"}

// teamsBody is a message as an adaptive card. Its text is made of runs, which
// unlike blocks of text know no formatting; a line is a block of its own.
func teamsBody(m note) any {
	line := func(run map[string]any) map[string]any {
		run["type"] = "TextRun"
		return map[string]any{"type": "RichTextBlock", "spacing": "small", "inlines": []any{run}}
	}
	var body []any
	if m.Title != "" {
		body = append(body, line(map[string]any{"text": m.Title, "weight": "bolder", "color": teamsColors[moods[m.State]]}))
	}
	for s := range strings.SplitSeq(m.Text, "\n") {
		if s != "" {
			body = append(body, line(map[string]any{"text": s}))
		}
	}
	card := map[string]any{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": body}
	if m.Link != "" {
		card["actions"] = []any{map[string]any{"type": "Action.OpenUrl", "title": "More", "url": m.Link}}
	}
	return map[string]any{"type": "message", "attachments": []any{map[string]any{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}}}
}
