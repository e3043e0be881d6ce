# S3, SQS and CloudWatch on this machine, for the scripts here:  . examples/production/local.sh
# Leave it out to run them on AWS itself. The server ends with `kill $LOCAL_AWS`; what it holds, too.
PORT=${PORT:-5005}
PYTHON=${PYTHON:-python3} # one that has segflow and moto[server]

export AWS_ENDPOINT_URL=http://127.0.0.1:$PORT AWS_DEFAULT_REGION=us-east-1 SEGFLOW_POLL_MAX=1
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local # any do here

here=examples/production
"$PYTHON" $here/local_aws.py --port "$PORT" > /dev/null 2>&1 &
LOCAL_AWS=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  "$PYTHON" $here/local_aws.py --port "$PORT" --check 2> /dev/null && break
  sleep 1
done
