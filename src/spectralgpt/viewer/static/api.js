// Asking the server. Every error is one line of JSON; it is thrown as an Error.

export async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  let answer;
  try {
    answer = await fetch(query ? `${path}?${query}` : path);
  } catch {
    throw new Error("The server does not answer: has it been ended?");
  }
  const found = await answer.json().catch(() => ({ error: `error ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Runs one job at a time. Of those asked for meanwhile only the last one is run.
export function latest(job, failed) {
  let wanted = null;
  let isRunning = false;
  return async (...what) => {
    wanted = what;
    if (isRunning) return;
    isRunning = true;
    while (wanted) {
      const next = wanted;
      wanted = null;
      try {
        await job(...next);
      } catch (error) {
        failed(error.message);
      }
    }
    isRunning = false;
  };
}
