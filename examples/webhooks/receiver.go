// Receives webhooks of Tidings: `TIDINGS_NOTIFY_SECRET=whsec_... go run . 9000`.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type message struct {
	Type string `json:"type"`
	Data struct {
		PredictionID string `json:"predictionId"`
	} `json:"data"`
}

var seen sync.Map // in earnest a table of your database, kept for a day

// received says an error if the webhook is not from your Tidings.
func received(webhook *standardwebhooks.Webhook, headers http.Header, body []byte) error {
	if err := webhook.Verify(body, headers); err != nil {
		return err
	}
	if _, repeated := seen.LoadOrStore(headers.Get("webhook-id"), true); repeated {
		return nil // an answer of yours got lost
	}
	var told message
	if err := json.Unmarshal(body, &told); err != nil {
		return err
	}
	fmt.Println(told.Type, told.Data.PredictionID)
	return nil
}

func main() {
	webhook, err := standardwebhooks.NewWebhook(os.Getenv("TIDINGS_NOTIFY_SECRET"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err == nil {
			err = received(webhook, request.Header, body)
		}
		if err != nil {
			http.Error(response, "not taken", http.StatusUnauthorized)
			return
		}
		response.WriteHeader(http.StatusNoContent)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
