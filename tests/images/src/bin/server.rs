//! The tests' server and client in one static program.
//!
//! ```text
//! server [--http PORT] [--echo PORT]            serve until SIGTERM: HTTP (8080), TCP and UDP echo (7000)
//! server dns NAME=ADDRESS...                    serve these names until SIGTERM (53)
//! server reach [--timeout-ms N] TARGET...       ask all at once: http://HOST:PORT/PATH, tcp://HOST:PORT, udp://HOST:PORT
//! ```

use std::{env, process::ExitCode, time::Duration};

use margay_test_images::{client, dns, server};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "reach" => reach(rest),
        Some((first, rest)) if first == "dns" => resolve(rest),
        _ => serve(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("server: {error}");
        ExitCode::FAILURE
    })
}

fn serve(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut http, mut echo) = (8080, 7000);
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--http" => http = number(value)?,
            [name, value] if name == "--echo" => echo = number(value)?,
            _ => return Err(format!("do not understand {}", pair.join(" "))),
        }
    }
    server::run(http, echo).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn resolve(arguments: &[String]) -> Result<ExitCode, String> {
    let pair = |pair: &String| {
        let (name, address) = pair.split_once('=').ok_or_else(|| format!("{pair} is not NAME=ADDRESS"))?;
        Ok((name.to_owned(), number(address)?))
    };
    let names = arguments.iter().map(pair).collect::<Result<_, String>>()?;
    dns::run(53, names).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn reach(arguments: &[String]) -> Result<ExitCode, String> {
    let (mut timeout, mut targets) = (Duration::from_secs(2), arguments);
    if let [name, value, rest @ ..] = arguments
        && name == "--timeout-ms"
    {
        timeout = Duration::from_millis(number(value)?);
        targets = rest;
    }
    let answers = client::ask_all(targets, timeout);
    for (target, answer) in targets.iter().zip(&answers) {
        match answer {
            Ok((text, time)) => println!("ok {target} {:.1} ms {text}", time.as_secs_f64() * 1e3),
            Err(error) => println!("failed {target} {error}"),
        }
    }
    Ok(if answers.iter().all(Result::is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number or address that fits"))
}
